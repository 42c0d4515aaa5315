"""What a unit of a model's usage costs in credits, from which instant on."""

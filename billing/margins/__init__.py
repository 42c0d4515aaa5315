"""What was earned and what it cost: margins, own GPUs, forecasts of a month, and months as they would have been."""

"""The schema's history, applied by `Database.migrate`; packaged, so that an installed gateway can migrate itself."""

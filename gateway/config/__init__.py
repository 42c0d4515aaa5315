"""What an operator may set, and how it is read: defaults < weir.yaml < WEIR_* < flags.

This package is the only reader of the environment. `settings.py` says what there is, `source.py` reads the file with its line numbers,
`load.py` puts the layers together and turns every mistake into one readable text, `secret.py` keeps the pepper of the keys.
"""

from gateway.config.load import ConfigError, child_environment, config_path, load_settings, unknown_names
from gateway.config.secret import pepper
from gateway.config.settings import Settings

__all__ = ["ConfigError", "Settings", "child_environment", "config_path", "load_settings", "pepper", "unknown_names"]

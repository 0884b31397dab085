"""A network of one line of numpy, and scans to show it."""

from tests.support.session_fixtures import fake, network, spec_of, volume_of

__all__ = ["fake", "network", "spec_of", "volume_of"]

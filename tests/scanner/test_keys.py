"""The site key: made once, secret, and what a series is called with it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medattn_edge.errors import HostError, IntegrityError
from medattn_edge.scanner.store.keys import SiteKey, site_key


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_site_key_is_made_once_and_only_its_owner_may_read_it(tmp_path):
    key = site_key(tmp_path / "site.key")
    assert site_key(tmp_path / "site.key") == key
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600
    assert names(tmp_path) == ["site.key"]
    assert repr(key.secret) not in repr(key)


def test_two_sites_show_different_keys_for_one_series():
    one, other = SiteKey(b"1" * 32), SiteKey(b"2" * 32)
    assert one.series_key("1.2.3") == SiteKey(b"1" * 32).series_key("1.2.3") != other.series_key("1.2.3")
    assert one.series_key("1.2.3") != one.object_name("1.2.3").removesuffix(".dcm")
    assert one.fingerprint != other.fingerprint
    assert len(one.series_key("1.2.3")) == 32


def test_a_site_key_that_others_may_read_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "site.key"
    site_key(path)
    path.chmod(0o640)
    with pytest.raises(HostError, match="chmod 600"):
        site_key(path)
    Path(path).chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="5 bytes"):
        site_key(path)

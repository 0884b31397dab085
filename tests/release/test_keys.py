"""Keys: made once, kept from others, and of no other kind."""

from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from medattn_edge.errors import OutputError, UsageError
from medattn_edge.release import generate_key, load_private_key, trusted_keys

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
OPEN = serialization.NoEncryption()


def test_a_key_is_for_its_owner_only_whatever_the_umask_says(tmp_path, monkeypatch):
    import os

    before = os.umask(0)
    try:
        made = generate_key(tmp_path / "KEY", "A Team")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "KEY").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "KEY.pub").stat().st_mode) == 0o644
    assert trusted_keys(tmp_path / "KEY.pub") == (made,)
    assert load_private_key(tmp_path / "KEY").public_key().public_bytes_raw() == made.raw
    assert b"PRIVATE" not in (tmp_path / "KEY.pub").read_bytes()


def test_no_key_is_overwritten(tmp_path):
    generate_key(tmp_path / "KEY")
    before = (tmp_path / "KEY").read_bytes()
    with pytest.raises(UsageError, match="KEY exists"):
        generate_key(tmp_path / "KEY")
    (tmp_path / "other.pub").write_text("mine")
    with pytest.raises(UsageError, match=r"other\.pub exists"):
        generate_key(tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="link exists"):
        generate_key(tmp_path / "link")
    assert (tmp_path / "KEY").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["KEY", "KEY.pub", "link", "other.pub"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    for folder in (tmp_path / "no", "/proc/self"):
        with pytest.raises(OutputError, match="cannot write") as raised:
            generate_key(tmp_path / folder / "KEY")
        assert raised.value.exit_code == 3


def test_several_keys_are_trusted_by_one_file(tmp_path):
    made = [generate_key(tmp_path / name, f"{name} team") for name in ("a", "b")]
    file = tmp_path / "trusted.keys"
    file.write_text((tmp_path / "a.pub").read_text() + "\n\n" + (tmp_path / "b.pub").read_text())
    assert trusted_keys(file) == tuple(made)
    assert [key.signer for key in trusted_keys(file)] == ["a team", "b team"]
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert trusted_keys(file) == tuple(made)
    file.write_text((tmp_path / "a.pub").read_text() * 2)
    with pytest.raises(UsageError, match="twice"):
        trusted_keys(file)
    # One name for two keys would say who signed and leave open which of them.
    file.write_text((tmp_path / "a.pub").read_text() + (tmp_path / "b.pub").read_text().replace("b team", "a team"))
    with pytest.raises(UsageError, match="twice"):
        trusted_keys(file)


def test_a_key_without_a_name_has_that_of_its_file(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "vendor.pem").write_bytes(key.public_bytes(PEM, PUBLIC))
    assert [one.signer for one in trusted_keys(tmp_path / "vendor.pem")] == ["vendor"]


def test_a_private_key_that_others_may_read_is_not_used(tmp_path):
    generate_key(tmp_path / "KEY")
    for mode in (0o640, 0o604, 0o620, 0o602):
        (tmp_path / "KEY").chmod(mode)
        with pytest.raises(UsageError, match=f"{mode:04o}"):
            load_private_key(tmp_path / "KEY")


def test_trusted_keys_that_everybody_may_change_are_not_believed(tmp_path):
    generate_key(tmp_path / "KEY")
    (tmp_path / "KEY.pub").chmod(0o646)
    with pytest.raises(UsageError, match="whom it trusts"):
        trusted_keys(tmp_path / "KEY.pub")


def private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_keys_of_another_kind_are_refused_by_name(tmp_path):
    for name, key in (("RSA", rsa.generate_private_key(65537, 2048)), ("EC", ec.generate_private_key(ec.SECP256R1()))):
        file = private(tmp_path / name, key.private_bytes(PEM, PKCS8, OPEN))
        with pytest.raises(UsageError, match=f"another kind \\({name}"):
            load_private_key(file)
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
        with pytest.raises(UsageError, match=f"another kind \\({name}"):
            trusted_keys(tmp_path / f"{name}.pub")


def test_private_for_public_and_the_reverse(tmp_path):
    generate_key(tmp_path / "KEY")
    with pytest.raises(UsageError, match="holds a private key") as raised:
        trusted_keys(tmp_path / "KEY")
    assert "never KEY" in raised.value.hint
    with pytest.raises(UsageError, match="is a public key"):
        load_private_key(private(tmp_path / "copy", (tmp_path / "KEY.pub").read_bytes()))


def test_a_key_with_a_password_is_told(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    data = key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    with pytest.raises(UsageError, match="has a password"):
        load_private_key(private(tmp_path / "KEY", data))


def test_every_damaged_byte_of_a_key_is_noticed_or_changes_the_key(tmp_path):
    made = generate_key(tmp_path / "KEY", "A Team")
    whole = (tmp_path / "KEY.pub").read_bytes()
    secret = (tmp_path / "KEY").read_bytes()
    file = tmp_path / "damaged"
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(data)
        try:
            keys = trusted_keys(file)
        except UsageError:
            continue
        assert keys != (made,) or whole[place] == 10, place  # a line that ends in another way
    for place in range(len(secret)):
        data = bytearray(secret)
        data[place] ^= 1
        try:
            key = load_private_key(private(file, data))
        except UsageError:
            continue
        assert key.public_key().public_bytes_raw() != made.raw or secret[place] == 10, place


def test_what_is_no_key_at_all(tmp_path):
    file = tmp_path / "x"
    whole = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    for data in (b"", b"hello", b"\xff\xfe", whole, whole[:-10], b"-----BEGIN PUBLIC KEY-----\n" * 3, bytes(2 << 20)):
        private(file, data)
        with pytest.raises(UsageError):
            trusted_keys(file)
        with pytest.raises(UsageError):
            load_private_key(file)
    with pytest.raises(UsageError, match="cannot be read"):
        trusted_keys(tmp_path / "nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        load_private_key(tmp_path)
    with pytest.raises(UsageError, match="signer"):
        generate_key(tmp_path / "KEY", "two\nlines")

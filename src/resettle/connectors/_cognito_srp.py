"""What a Cognito sign-in computes: the proof of a password (SRP-6a), a client's secret hash, a one-time code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from datetime import datetime

from resettle.errors import AccessError

MODULUS = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7"
    "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C"
    "BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
    16,
)
"""The 3072-bit prime of RFC 5054, appendix A (RFC 3526, group 15)."""
GENERATOR = 2
"""Cognito's; RFC 5054 pairs this prime with 5."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def signed_bytes(number: int) -> bytes:
    """Big-endian two's complement of a number that is not negative, as Java's BigInteger writes it."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def hash_number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest(), "big")


def stamp(now: datetime) -> str:
    """A UTC moment in the one form that Cognito signs: English names, the day without a leading zero."""
    return f"{WEEKDAYS[now.weekday()]} {MONTHS[now.month - 1]} {now.day} {now:%H:%M:%S} UTC {now.year}"


@dataclass(frozen=True)
class Proof:
    """One sign-in: ``secret`` is the client's random exponent."""

    pool: str
    """The user pool's id, with its region."""
    secret: int

    @classmethod
    def begin(cls, pool: str) -> Proof:
        return cls(pool, int.from_bytes(os.urandom(128), "big") % MODULUS)

    @property
    def public(self) -> int:
        """SRP_A."""
        return pow(GENERATOR, self.secret, MODULUS)

    def signature(self, user: str, password: str, salt: str, theirs: str, block: str, moment: str) -> str:
        """PASSWORD_CLAIM_SIGNATURE, of ``salt`` and ``theirs`` (SRP_B) in hex, ``block`` in base 64 and a `stamp`.

        Raises AccessError where the service's number would give the password away.
        """
        name = self.pool.partition("_")[2]
        key = self.key(name, user, password, int(salt, 16), int(theirs, 16))
        said = name.encode() + user.encode() + base64.b64decode(block) + moment.encode()
        return base64.b64encode(hmac.digest(key, said, "sha256")).decode()

    def key(self, name: str, user: str, password: str, salt: int, theirs: int) -> bytes:
        """The 16 bytes that both sides can compute: HKDF of the shared number (RFC 5869, one block)."""
        mix = hash_number(signed_bytes(self.public), signed_bytes(theirs))
        if theirs % MODULUS == 0 or mix == 0:
            raise AccessError("the service's answer to the sign-in is not safe to go on with")
        identity = hashlib.sha256(f"{name}{user}:{password}".encode()).digest()
        private = hash_number(signed_bytes(salt), identity)
        factor = hash_number(signed_bytes(MODULUS), bytes([GENERATOR]))
        base = theirs - factor * pow(GENERATOR, private, MODULUS)
        shared = pow(base, self.secret + mix * private, MODULUS)
        extracted = hmac.digest(signed_bytes(mix), signed_bytes(shared), "sha256")
        return hmac.digest(extracted, b"Caldera Derived Key\x01", "sha256")[:16]


def secret_hash(secret: str, user: str, client: str) -> str:
    """SECRET_HASH, for app clients that have a secret."""
    return base64.b64encode(hmac.digest(secret.encode(), (user + client).encode(), "sha256")).decode()


def one_time_code(secret: str, seconds: float) -> str:
    """The six digits of RFC 6238 (SHA-1, 30 seconds) for a base 32 secret at this Unix time."""
    text = secret.replace(" ", "").upper()
    try:
        key = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise AccessError("`totp_secret` is not base 32") from None
    digest = hmac.digest(key, struct.pack(">Q", int(seconds) // 30), "sha1")
    (number,) = struct.unpack(">I", digest[(start := digest[-1] & 15) : start + 4])
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"

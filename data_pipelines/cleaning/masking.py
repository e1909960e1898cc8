"""Personal data: e-mail addresses, IP addresses and telephone numbers, replaced by a name of their kind.

The names are those of Dolma (Soldaini et al. 2024, section 4.4).
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Sequence

EMAIL, IP, PHONE = KINDS = ("email", "ip", "phone")
NAMES = {EMAIL: "|||EMAIL_ADDRESS|||", IP: "|||IP_ADDRESS|||", PHONE: "|||PHONE_NUMBER|||"}
# Lengths are bounded as the addresses' own are (RFC 5321), so that no text takes long to search.
# What is beside an address may be a letter of another script, which has no spaces between words.
_LETTERS = "A-Za-z0-9\u00c0-\u024f"
_EMAIL = re.compile(
    rf"(?<![{_LETTERS}_.+-])[{_LETTERS}_][{_LETTERS}.!#$%&'*+/=?^_`{{|}}~-]{{0,63}}@"
    rf"[{_LETTERS}](?:[{_LETTERS}-]{{0,62}}\.){{1,8}}"
    r"(?:xn--[A-Za-z0-9-]{1,58}[A-Za-z0-9]|[A-Za-z]{2,24})(?![A-Za-z0-9_])"
)
_IP = re.compile(
    r"(?<![A-Za-z0-9_.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![A-Za-z0-9_]|\.[0-9])|"
    r"(?<![A-Za-z0-9_.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![A-Za-z0-9_:]|\.[0-9])"
)
# Addresses of version 6 that are in use (IANA, "Internet Protocol Version 6 Address Space"); a::b is not one.
_ASSIGNED = ipaddress.ip_network("2000::/3")


def mask(text: str, kinds: Collection[str], regions: Sequence[str] = ()) -> tuple[str, Counter]:
    """The text with personal data masked, and how many of each kind there were.

    Args:
      kinds: among KINDS.
      regions: countries whose telephone numbers are found without the country's prefix, as ISO 3166 codes.
    """
    counts: Counter = Counter()
    if EMAIL in kinds:
        text, counts[EMAIL] = _EMAIL.subn(NAMES[EMAIL], text)
    if IP in kinds:
        text, counts[IP] = _mask_addresses(text)
    if PHONE in kinds:
        text, counts[PHONE] = _mask_numbers(text, regions)
    return text, +counts


def _mask_addresses(text: str) -> tuple[str, int]:
    """Addresses that are someone's: 127.0.0.1, 10.0.0.1 and the like are everyone's."""
    found = 0

    def replacement(match: re.Match) -> str:
        nonlocal found
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            return match.group()
        is_public = address.is_global and (address.version == 4 or address in _ASSIGNED)
        found += is_public
        return NAMES[IP] if is_public else match.group()

    return _IP.sub(replacement, text), found


def _mask_numbers(text: str, regions: Sequence[str]) -> tuple[str, int]:
    """Valid numbers of the plans that the library phonenumbers, Google's, knows."""
    import phonenumbers

    found = 0
    for region in regions or (None,):
        # Its own limit of tries, for hostile texts, would leave the end of a long text out.
        matches = phonenumbers.PhoneNumberMatcher(text, region, max_tries=len(text) + 1)
        spans = [(match.start, match.end) for match in matches]
        begins = [0, *(end for _, end in spans)]
        ends = [*(start for start, _ in spans), len(text)]
        text = NAMES[PHONE].join(text[begin:end] for begin, end in zip(begins, ends, strict=True))
        found += len(spans)
    return text, found

"""Money is integer nano-dollars (1e-9 USD), so that sums are exact."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANO = 1_000_000_000


def to_nano(usd: float | str | Decimal) -> int:
    """USD to nano-dollars, rounded up. Raises ValueError for what is not a finite number."""
    try:
        amount = Decimal(str(usd))
    except InvalidOperation as error:
        raise ValueError(f"{usd!r} is not an amount of money") from error
    if not amount.is_finite():
        raise ValueError(f"{usd!r} is not a finite amount of money")
    return int((amount * NANO).to_integral_value(rounding=ROUND_CEILING))


def to_usd(nano: int) -> float:
    """Nano-dollars to USD, for people and JSON numbers."""
    return nano / NANO


def format_usd(nano: int) -> str:
    """A plain decimal without an exponent or trailing zeros: `0`, `0.000042`, `1.5`."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, part = divmod(nano, NANO)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"

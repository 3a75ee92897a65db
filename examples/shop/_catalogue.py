"""What is for sale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """cents: what one costs."""

    id: str
    name: str
    cents: int


CATALOGUE = {
    product.id: product
    for product in (
        Product("mainspring", "Mainspring, blued steel", 1450),
        Product("escapement", "Lever escapement", 8900),
        Product("balance", "Balance wheel with hairspring", 6200),
        Product("jewel", "Ruby jewel", 380),
        Product("dial", "Enamel dial", 4700),
        Product("hands", "Pair of hands, Breguet", 1900),
    )
}

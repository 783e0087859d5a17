"""A tool of your own: a typed function with a docstring. It works wherever the name of a tool does.

fireact eval runs/train --tool examples.own_tool:capital
"""

from typing import Literal

import fireact

CAPITALS = {"en": {"Norway": "Oslo", "Peru": "Lima"}, "es": {"Noruega": "Oslo", "Perú": "Lima"}}


def capital(country: str, language: Literal["en", "es"] = "en") -> str:
    """Tells the capital of a country.

    Args:
        country: its name
        language: of the name
    """
    return CAPITALS[language].get(country, "not known")


if __name__ == "__main__":
    (tool,) = fireact.load_tools(["__main__:capital"]).values()
    print(tool.parameters, tool(country="Peru"))

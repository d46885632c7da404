"""A chat template that is given at the start: a file, or the text itself."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What no template is without, and no path has.
_SIGNS = ("{{", "{%")


class _Generation(Extension):
    """A tag of transformers' own, {% generation %}."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def read(given: str) -> str:
    """The template's text, which compiles. ValueError with a sentence where it is not there or is none."""
    if _is_template(given):
        text, place = given, ""
    else:
        text, place = _file(given), f"{given}, "
        if not _is_template(text):
            raise ValueError(f"{given} is no chat template: there is no {{{{ and no {{% in it")
    try:
        # As transformers does it, but for what a template calls while it runs.
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions).compile(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"{place}line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError, SyntaxError) as error:
        raise ValueError(f"{place}it does not compile: {error}") from error
    return text


def _is_template(text: str) -> bool:
    return any(sign in text for sign in _SIGNS)


def _file(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"the file {path!r} cannot be read, and as a template it has no {{{{ and no {{%: {words}") from error

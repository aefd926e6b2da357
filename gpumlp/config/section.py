"""What the settings are made of: sections, names out of a table, and sections that are one of several.

The tables live where optimizers, schedules and losses are defined. They are read when the schema is built, so
there is no second list of them here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, SchemaValidator, core_schema

from gpumlp.config.yaml_text import KeyPath
from gpumlp.ops import Hyper

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A group of settings that cannot change; unknown names and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a setting: where it is, what is wrong, and what to do."""

    path: KeyPath
    what: str
    hint: str


def refuse(section: str, problems: list[Problem]) -> None:
    """Raise all problems as one validation error, so that each keeps its own place."""
    if problems:
        raise ValidationError.from_exception_data(
            section,
            [
                # The text goes in as a value: a brace in it must not be taken for a placeholder.
                InitErrorDetails(
                    type=PydanticCustomError("rule", "{what}; {hint}", {"what": p.what, "hint": p.hint}),
                    loc=p.path,
                    input=None,
                )
                for p in problems
            ],
        )


@dataclass(frozen=True, eq=False)
class NameIn:
    """Annotation of a text that must be a name: one of ``extra`` or a key of ``table``."""

    table: Mapping[str, object]
    extra: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(dict.fromkeys((*self.extra, *self.table))))


class HasHyper(Protocol):
    """A row of a table of optimizers, schedules or losses."""

    @property
    def hyper(self) -> Mapping[str, Hyper]:
        """The numbers that a user may set, by name."""


class Choice(Section):
    """A section that is one of several, told apart by ``name``, a key of ``table``."""

    table: ClassVar[Mapping[str, HasHyper]]
    name: str

    @property
    def hyper(self) -> dict[str, float]:
        """The numbers that only this choice has, by name."""
        return {key: getattr(self, key) for key in self.table[self.name].hyper}


def section_of_name(setting: object) -> object:
    """Let a bare name stand for a section with this name."""
    return {"name": setting} if isinstance(setting, str) else setting


def section_of_count(setting: object) -> object:
    """Let a bare number, or ``auto``, stand for a section with this count."""
    is_count = setting == "auto" or (isinstance(setting, int) and not isinstance(setting, bool))
    return {"count": setting} if is_count else setting


@dataclass(frozen=True)
class Variant:
    """What the settings of one name are: the section they extend, and the numbers they add."""

    base: type[Choice]
    numbers: Mapping[str, Hyper]


def _class_name(name: str, row: Variant) -> str:
    return "".join(word.capitalize() for word in name.split("_")) + row.base.__name__


_SECTIONS: dict[str, Callable[[], type[Choice]]] = {}


def __getattr__(name: str) -> type[Choice]:
    """Return a section that is one of several by the name of its class, for pickle."""
    if name in _SECTIONS:
        return _SECTIONS[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotation of a section that is one of several, told apart by ``name``.

    ``rows`` reads the tables when the schema is built. ``default`` is the name that is meant where none is
    given. Where that depends on the task, it is a mapping from task to name, and ``auto`` asks for it. ``suited``
    returns another name, or None, for the settings that come before.
    """

    rows: Callable[[], dict[str, Variant]]
    default: str | Mapping[str, str]
    suited: Callable[[Mapping[str, Any]], str | None] = lambda before: None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        _SECTIONS.update((_class_name(name, row), partial(_section, self, name)) for name, row in self.rows().items())
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        union = handler(self.union(self.rows()))
        names = [*self.auto(), *union["discriminator"]["mapping"]]
        # Not oneOf: {name: auto} fits the section of every task's default.
        return {
            "anyOf": [{"enum": names, "type": "string"}, *union["oneOf"]],
            "discriminator": union["discriminator"],
        }

    def union(self, names: Collection[str]) -> CoreSchema:
        """Return the schema of one section of several, complete for these names."""
        sections: dict[Hashable, CoreSchema] = {
            name: _section(self, name).__pydantic_core_schema__ if name in names else core_schema.any_schema()
            for name in self.rows()
        }
        return core_schema.tagged_union_schema(sections, discriminator="name")

    def _validate(self, setting: object, info: ValidationInfo) -> Any:
        section = self._spell_out(setting, info)
        name = section["name"] if isinstance(section, dict) else getattr(section, "name", None)
        known = [*self.rows()]
        shown = name if isinstance(name, str) and name in known else known[0]
        return _validator(self, shown).validate_python(section)

    def _spell_out(self, setting: object, info: ValidationInfo) -> object:
        section = section_of_name(setting)
        if isinstance(section, dict) and ("name" not in section or section["name"] in self.auto()):
            return {**section, "name": self._default_name(info.data)}
        return section

    def _default_name(self, before: Mapping[str, Any]) -> str:
        if (suited := self.suited(before)) is not None:
            return suited
        if isinstance(self.default, str):
            return self.default
        # Without a valid task the settings fail anyway; any name will do to check the rest of the section.
        return self.default.get(before.get("task", ""), next(iter(self.default.values())))

    def auto(self) -> tuple[str, ...]:
        """Return the names that stand for a default of the task."""
        return () if isinstance(self.default, str) else ("auto",)


@cache
def _section(one_of: OneOf, name: str) -> type[Choice]:
    """Return the section of a name. It is made when it is first needed, as each takes half a millisecond."""
    row = one_of.rows()[name]
    defaults = (one_of.default,) if isinstance(one_of.default, str) else one_of.default.values()
    names = NameIn({name: row}, one_of.auto() if name in defaults else ())
    fields: dict[str, Any] = {
        "name": (
            Annotated[str, names],
            Field(name if name in defaults else ..., description=row.base.__doc__),
        )
    }
    for key, number in row.numbers.items():
        bounds = {bound: getattr(number, bound) for bound in ("gt", "ge", "lt", "le")}
        fields[key] = float, Field(number.default, description=number.meaning, **bounds)
    class_name, doc = _class_name(name, row), row.base.__doc__
    return create_model(class_name, __base__=row.base, __doc__=doc, __module__=__name__, **fields)


@cache
def _validator(one_of: OneOf, name: str) -> SchemaValidator:
    """Return the validator of the section of a name; its errors know all names."""
    return SchemaValidator(one_of.union([name]))

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from gpumlp.config import configure, section
from gpumlp.config.section import Choice, NameIn, OneOf, Problem, Section, Variant, refuse
from gpumlp.ops import Hyper


class Colour(Choice):
    """The colour."""

    depth: float = 1.0


def rows() -> dict[str, Variant]:
    return {
        "red": Variant(Colour, {"heat": Hyper(0.5, "how warm it looks", ge=0.0, lt=1.0)}),
        "blue": Variant(Colour, {"depth": Hyper(2.0, "how dark it is", gt=0.0, le=9.0)}),
    }


class Picture(Section):
    task: str = "day"
    sky: Annotated[Colour, OneOf(rows, "blue")] = Field(default_factory=dict)  # type: ignore[assignment]
    light: Annotated[Colour, OneOf(rows, {"day": "red", "night": "blue"})] = Field("auto")  # type: ignore[assignment]


def errors(data: object) -> list[tuple[str, tuple[str | int, ...]]]:
    with pytest.raises(ValidationError) as caught:
        Picture.model_validate(data)
    return [(error["type"], error["loc"]) for error in caught.value.errors()]


def test_a_section_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Picture().task = "night"  # type: ignore[misc]


@pytest.mark.parametrize("number", [True, "1", float("inf"), float("nan"), None, [1.0]])
def test_nothing_but_a_finite_number_is_a_number(number: object) -> None:
    assert [where for _, where in errors({"sky": {"name": "red", "depth": number}})] == [("sky", "red", "depth")]


def test_a_whole_number_may_stand_for_any_number() -> None:
    assert repr(Picture.model_validate({"sky": {"depth": 3}}).sky.depth) == "3.0"


def test_a_name_decides_settings_defaults_and_ranges() -> None:
    assert Picture.model_validate({"sky": {"name": "blue"}}).sky.depth == 2.0
    assert Picture.model_validate({"sky": {"name": "red"}}).sky.model_dump() == {
        "name": "red",
        "depth": 1.0,
        "heat": 0.5,
    }
    assert errors({"sky": {"name": "blue", "heat": 0.1}}) == [("extra_forbidden", ("sky", "blue", "heat"))]
    assert errors({"sky": {"name": "red", "heat": 1}}) == [("less_than", ("sky", "red", "heat"))]
    assert errors({"sky": {"name": "red", "heat": -1}}) == [("greater_than_equal", ("sky", "red", "heat"))]
    assert errors({"sky": {"depth": 0}}) == [("greater_than", ("sky", "blue", "depth"))]
    assert errors({"sky": {"depth": 10}}) == [("less_than_equal", ("sky", "blue", "depth"))]


def test_sections_are_made_when_they_are_chosen_and_survive_pickle() -> None:
    code = (
        "from pickle import dumps; from gpumlp.config import configure; from gpumlp.config.section import _section\n"
    )
    code += (
        "settings = configure(task='regression', data={'train': 'a.csv', 'target': 'y'}, optimizer='sgd').settings\n"
    )
    code += "print(_section.cache_info().currsize, dumps(settings.optimizer).hex())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    made, pickled = done.stdout.split()
    assert int(made) == 3  # of the loss, the optimizer and the schedule
    sgd = pickle.loads(bytes.fromhex(pickled))
    assert (
        sgd
        == configure(task="regression", data={"train": "a.csv", "target": "y"}, optimizer="sgd").settings.optimizer
    )
    with pytest.raises(AttributeError, match="NoSection"):
        section.NoSection  # noqa: B018


def test_a_section_of_another_kind_is_no_section() -> None:
    red = Picture.model_validate({"sky": "red"}).sky
    assert Picture.model_validate({"sky": red}).sky is red
    assert errors({"sky": 5}) == [("model_attributes_type", ("sky",))]
    assert errors({"sky": Picture()}) == [("union_tag_not_found", ("sky",))]
    assert errors({"sky": {"name": 5}}) == errors({"sky": {"name": []}}) == [("union_tag_invalid", ("sky",))]
    with pytest.raises(ValidationError, match="'red', 'blue'"):
        Picture.model_validate({"sky": "green"})


def test_a_bare_name_stands_for_its_section() -> None:
    assert Picture.model_validate({"sky": "red"}) == Picture.model_validate({"sky": {"name": "red"}})


def test_without_a_name_the_default_is_meant() -> None:
    assert Picture.model_validate({"sky": {"depth": 3.0}}).sky.name == "blue"
    assert Picture.model_validate({}).sky.name == "blue"


@pytest.mark.parametrize("light", ["auto", {"name": "auto"}, {}])
def test_auto_is_the_default_of_the_task(light: object) -> None:
    assert Picture.model_validate({"task": "day", "light": light}).light.name == "red"
    assert Picture.model_validate({"task": "night", "light": light}).light.name == "blue"


def test_auto_is_no_name_where_there_is_one_default() -> None:
    assert errors({"sky": "auto"}) == [("union_tag_invalid", ("sky",))]


def test_the_json_schema_takes_names_and_sections() -> None:
    schema = Picture.model_json_schema()
    assert schema["properties"]["sky"]["anyOf"][0] == {"enum": ["red", "blue"], "type": "string"}
    assert schema["properties"]["light"]["anyOf"][0] == {"enum": ["auto", "red", "blue"], "type": "string"}
    (red, *_) = (node["properties"]["heat"] for key, node in schema["$defs"].items() if "RedColour" in key)
    assert (red["description"], red["minimum"], red["exclusiveMaximum"]) == ("how warm it looks", 0.0, 1.0)


def test_a_name_comes_from_its_table_or_beside_it() -> None:
    adapter = TypeAdapter(Annotated[str, NameIn({"a": 1, "b": 2}, ("auto", "a"))])
    assert adapter.json_schema()["enum"] == ["auto", "a", "b"]
    assert adapter.validate_python("b") == "b"
    with pytest.raises(ValidationError):
        adapter.validate_python("c")


def test_no_problem_is_no_error() -> None:
    refuse("Picture", [])


def test_each_problem_keeps_its_place_and_its_text() -> None:
    with pytest.raises(ValidationError) as caught:
        refuse("Picture", [Problem(("sky",), "a {brace}", "b"), Problem(("light", "name"), "c", "d")])
    found = [(error["loc"], error["ctx"]) for error in caught.value.errors()]
    assert found == [
        (("sky",), {"what": "a {brace}", "hint": "b"}),
        (("light", "name"), {"what": "c", "hint": "d"}),
    ]

"""What a config node becomes, and which nodes are refused."""

from __future__ import annotations

import re

import pytest

from isometry.config.targets import check_all_are_built, instantiate, register_target
from isometry.errors import UserError

register_target("collections.Counter")
register_target("fractions.Fraction")

HALF = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}


@pytest.mark.parametrize(
    ("argument", "built"),
    [
        (HALF, 0.5),
        ([HALF, 3], [0.5, 3]),
        ({"deep": {"deeper": [HALF]}}, {"deep": {"deeper": [0.5]}}),
        ("fractions.Fraction", "fractions.Fraction"),
    ],
)
def test_what_stands_inside_of_a_node_is_built(argument, built):
    counter = instantiate({"_target_": "collections.Counter", "a": argument, "name": "metadata"})
    assert dict(counter) == {"a": built}


def test_a_target_that_stands_nowhere_is_refused_wherever_it_stands():
    node = {"_target_": "collections.Counter", "a": [{"b": {"_target_": "os.system"}}]}
    with pytest.raises(UserError, match=r"_target_=os\.system"):
        instantiate(node)


@pytest.mark.parametrize(
    "config",
    [
        {"model": HALF, "data": {"source": HALF}, "callbacks": {"mine": HALF}},
        {"optimizer": {"options": [{"half": HALF}]}},
    ],
)
def test_what_is_built_is_not_refused(config):
    check_all_are_built(config)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"surgery": HALF}, "surgery._target_=fractions.Fraction"),
        ({"verdict": {"rule": HALF}}, "verdict.rule._target_"),
        ({"tags": [HALF]}, "tags.0._target_"),
        ({"callbacks": HALF}, "callbacks._target_"),
    ],
)
def test_what_nothing_is_made_of_is_named(config, path):
    with pytest.raises(UserError, match=re.escape(path)):
        check_all_are_built(config)

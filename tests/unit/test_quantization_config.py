"""The configs of codes name the kinds that there are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from vecstore.quantization import KINDS, config


def test_each_kind_has_a_config():
    configs = [config.Int8(), config.Int4(), config.Binary()]
    assert [each.kind for each in configs] == list(KINDS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs[0].oversampling = 1.0


def test_auto_takes_codes_that_are_smaller_where_there_are_such():
    assert config.default_for(127) == config.Int8()
    assert config.default_for(128) == config.Int4()


def test_the_configs_import_neither_numpy_nor_numba():
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); assert not {'numpy', 'numba'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, config.__file__], check=True)

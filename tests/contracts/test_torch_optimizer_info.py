"""All configurations and error inputs in torch's database of optimizer inputs.

The database is private to torch and requires `expecttest`. If it cannot be imported, these tests are skipped, and only
the parity tests in tests/methods are run. The import takes seconds, so it is part of a fixture, which only one test
process needs.
"""

import importlib

import pytest
import torch
from contracts.trajectories import distance, parameters, run

import dashpot as dp

NAMES = ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "NAdam")
DEVICE = torch.device("cpu")
TOLERANCE = 1e-11  # the documented bound for parity with torch.optim in float64


@pytest.fixture(scope="module")
def infos():
    """Return the entries of the database, by the name of the class."""
    try:
        database = importlib.import_module("torch.testing._internal.common_optimizers").optim_db
    except ImportError as error:
        pytest.skip(f"torch's private optimizer database cannot be imported: {error}")
    return {info.optim_cls.__name__: info for info in database if info.optim_cls.__name__ in NAMES}


def inputs(info, device):
    """Return descriptions and keyword arguments, with tensors in float64 like the parameters."""
    return [
        (item.desc, {key: wide(value) for key, value in item.kwargs.items()})
        for item in info.optim_inputs_func(device=device, dtype=torch.float64)
    ]


def error_inputs(info):
    return info.optim_error_inputs_func(DEVICE, torch.float64)


def wide(value):
    if isinstance(value, tuple):
        return tuple(map(wide, value))
    return value.double() if isinstance(value, torch.Tensor) else value


@pytest.fixture(autouse=True)
def float64_by_default():
    """Use float64 as the default dtype, in which torch stores NAdam's product of momenta."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_database_contains_every_class(infos):
    assert set(infos) == set(NAMES)
    assert sum(len(inputs(info, "cpu")) for info in infos.values()) >= 30
    assert sum(len(error_inputs(info)) for info in infos.values()) >= 25


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_equals_torch(infos, name, engine):
    on_cuda = [item for item in inputs(infos[name], "cuda") if item[1].get("capturable")]
    for description, options in inputs(infos[name], "cpu") + on_cuda:
        ours, theirs = parameters(), parameters()
        run(getattr(dp, name)(ours, engine=engine, **options), ours, 8, missing=skips_a_step)
        on_cpu = {key: value for key, value in options.items() if key != "capturable"}  # torch requires an accelerator
        run(getattr(torch.optim, name)(theirs, **on_cpu), theirs, 8, missing=skips_a_step)
        assert distance(ours, theirs) < TOLERANCE, description


def skips_a_step(step, index):
    return step == 3 or (index == 1 and step < 2)


# These are limits of torch's foreach implementation; in dashpot any setting can be a tensor.
ACCEPTED = (
    "lr as Tensor doesn't work with foreach & not capturable",
    "betas must be either both floats or both Tensors",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_input_of_torch_is_rejected(infos, name):
    cls = getattr(dp, name)
    for item in error_inputs(infos[name]):
        config = item.optimizer_error_input
        assert item.error_on.name == "CONSTRUCTION_ERROR", config.desc
        params = config.params if config.params is not None else parameters()
        if config.desc in ACCEPTED:
            assert_equal_for_plain_numbers(name, params, config.kwargs)
        elif item.error_type is UserWarning:
            with pytest.warns(UserWarning, match=item.error_regex):
                cls(params, **config.kwargs)
        else:
            with pytest.raises((item.error_type, dp.ArgumentError)):
                cls(params, **config.kwargs)


def assert_equal_for_plain_numbers(name, params, options):
    """Check that settings given as tensors are those of torch given as numbers."""
    reference = parameters()
    plain = {key: plain_number(value) for key, value in options.items() if key != "foreach"}
    run(getattr(dp, name)(params, **options), params, 5)
    run(getattr(torch.optim, name)(reference, **plain), reference, 5)
    assert distance(params, reference) < 1e-6  # the tensors in the database have float32 values


def plain_number(value):
    if isinstance(value, tuple):
        return tuple(plain_number(item) for item in value)
    return value.item() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", NAMES)
def test_database_flags_hold_for_dashpot(infos, name):
    """The flags are for complex parameters, differentiable steps and foreach steps, as in torch's tests."""
    info, cls = infos[name], getattr(dp, name)
    assert info.supports_complex
    params, start = parameters(torch.complex128), parameters(torch.complex128)
    run(cls(params), params, 1)
    assert distance(params, start) > 0
    for flag in info.supported_impls:
        cls(parameters(), **{flag: True})
    for flag in info.not_og_supported_flags:
        assert cls(parameters()).defaults.get(flag) in (None, False)

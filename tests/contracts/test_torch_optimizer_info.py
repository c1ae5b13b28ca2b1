"""All configurations and error inputs in torch's database of optimizer inputs.

The database is private to torch and requires `expecttest`. If it cannot be imported, these tests are skipped, and only
the parity tests in tests/methods are run.
"""

import pytest
import torch
from contracts.trajectories import distance, parameters, run

import dashpot as dp

try:
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db
except ImportError as error:
    pytest.skip(f"torch's private optimizer database cannot be imported: {error}", allow_module_level=True)

NAMES = ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "NAdam")
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}
DEVICE = torch.device("cpu")
TOLERANCE = 1e-11  # the documented bound for parity with torch.optim in float64


def inputs(device):
    """Return triples (name, description, keyword arguments), with tensors in float64 like the parameters."""
    return [
        (name, item.desc, {key: wide(value) for key, value in item.kwargs.items()})
        for name, info in INFOS.items()
        for item in info.optim_inputs_func(device=device, dtype=torch.float64)
    ]


def wide(value):
    if isinstance(value, tuple):
        return tuple(map(wide, value))
    return value.double() if isinstance(value, torch.Tensor) else value


CONFIGURATIONS = inputs("cpu")
ON_CUDA = [item for item in inputs("cuda") if item[2].get("capturable")]
ERRORS = [(name, item) for name, info in INFOS.items() for item in info.optim_error_inputs_func(DEVICE, torch.float64)]


@pytest.fixture(autouse=True)
def float64_by_default():
    """Use float64 as the default dtype, in which torch stores NAdam's product of momenta."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_database_contains_every_class():
    assert set(INFOS) == set(NAMES)
    assert len(CONFIGURATIONS) >= 30
    assert len(ERRORS) >= 25


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "description", "options"), CONFIGURATIONS + ON_CUDA, ids=str)
def test_every_configuration_equals_torch(name, description, options, engine):
    ours, theirs = parameters(), parameters()

    def skips_a_step(step, index):
        return step == 3 or (index == 1 and step < 2)

    run(getattr(dp, name)(ours, engine=engine, **options), ours, 8, missing=skips_a_step)
    on_cpu = {key: value for key, value in options.items() if key != "capturable"}  # torch requires an accelerator
    run(getattr(torch.optim, name)(theirs, **on_cpu), theirs, 8, missing=skips_a_step)
    assert distance(ours, theirs) < TOLERANCE, description


# These are limits of torch's foreach implementation; in dashpot any setting can be a tensor.
ACCEPTED = (
    "lr as Tensor doesn't work with foreach & not capturable",
    "betas must be either both floats or both Tensors",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
)


@pytest.mark.parametrize(("name", "item"), ERRORS, ids=[f"{n}-{i.optimizer_error_input.desc}" for n, i in ERRORS])
def test_every_error_input_of_torch_is_rejected(name, item):
    config = item.optimizer_error_input
    cls = getattr(dp, name)
    assert item.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    params = config.params if config.params is not None else parameters()
    if config.desc in ACCEPTED:
        optimizer, reference = cls(params, **config.kwargs), parameters()
        plain = {key: plain_number(value) for key, value in config.kwargs.items() if key != "foreach"}
        run(optimizer, params, 5)
        run(torch.optim.__dict__[name](reference, **plain), reference, 5)
        assert distance(params, reference) < 1e-6  # the tensors in the database have float32 values
        return
    if item.error_type is UserWarning:
        with pytest.warns(UserWarning, match=item.error_regex):
            cls(params, **config.kwargs)
        return
    with pytest.raises((item.error_type, dp.ArgumentError)):
        cls(params, **config.kwargs)


def plain_number(value):
    if isinstance(value, tuple):
        return tuple(plain_number(item) for item in value)
    return value.item() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", NAMES)
def test_database_flags_hold_for_dashpot(name):
    """The flags are for complex parameters, differentiable steps and foreach steps, as in torch's tests."""
    info, cls = INFOS[name], getattr(dp, name)
    assert info.supports_complex
    params, start = parameters(torch.complex128), parameters(torch.complex128)
    run(cls(params), params, 1)
    assert distance(params, start) > 0
    for flag in info.supported_impls:
        cls(parameters(), **{flag: True})
    for flag in info.not_og_supported_flags:
        assert cls(parameters()).defaults.get(flag) in (None, False)

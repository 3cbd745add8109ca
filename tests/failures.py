"""Runs that are cancelled or fail halfway."""

import comfy.model_management
from comfy.patcher_extension import WrappersMP


class Stop(Exception):
    pass


def failing(model, wrapper_type, error, on_call):
    """A clone that raises at the given call of that hook."""
    calls = iter(range(100))

    def wrapper(executor, *args, **kwargs):
        if next(calls) == on_call:
            raise error
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(wrapper_type, "failing", wrapper)
    return model


def cancelling(model):
    """A clone that presses Cancel during its second step, as the server's interrupt does."""
    calls = iter(range(100))

    def wrapper(executor, *args, **kwargs):
        if next(calls) == 1:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "cancel", wrapper)
    return model


def failing_block(model, error):
    """A clone whose second double block raises in the middle of the forward pass."""

    def replacement(args, extra):
        raise error

    model = model.clone()
    model.set_model_patch_replace(replacement, "dit", "double_block", 1)
    return model

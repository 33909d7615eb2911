"""`devices`: choose the device that a model runs on, and make one replica for each device."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ringfeed.tf.models.devices import grow_memory, replicas, resolve_devices
from ringfeed.tf.models.runner import ModelRunner
from support import run_program
from two_devices import devices_of, on_two_cpus, two_cpus  # noqa: F401 - a fixture

X = np.random.default_rng(1).random((5, 7), np.float32)
BOTH = ["CPU:0", "CPU:1"]


def dense_model():
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(4, activation="tanh")], name="dense_model")


def functional_model():
    """Return a model that is hard to copy: it has state besides weights, functions, shared and nested layers."""
    keras.utils.set_random_seed(4)
    a, b = keras.Input((7,), name="a"), keras.Input((7,), name="b")
    normalize = keras.layers.Normalization()
    normalize.adapt(X)
    shared, shift = keras.layers.Dense(5), np.float32(2)
    nested = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5), keras.layers.Dropout(0.5)], name="nested")
    joined = keras.layers.Lambda(lambda t: tf.abs(t) * shift)(shared(normalize(a)) + nested(shared(b)))
    return keras.Model({"a": a, "b": b}, {"z": keras.layers.Dense(2)(joined), "joined": joined}, name="functional")


class Described(keras.Model):
    """A model with a config, so that it can be copied."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.inner = keras.layers.Dense(width, activation=doubled)

    def call(self, x):
        return self.inner(x) + 1

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Opaque(keras.Model):
    """A model without a config, so that it cannot be copied."""

    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def call(self, x):
        return self.inner(x)


def doubled(x):
    return x * 2


def built(model):
    model(X)
    return model


def weights_at(form):
    return {weight.value.device.rpartition("device:")[2] for weight in form.keras_model.weights}


def placed(runner, inputs):
    """Return the outputs of a first call, and the devices of its operations."""
    outputs = []
    ran = devices_of(lambda: outputs.append(runner(inputs)))
    return outputs[0], ran


def assert_replicates(model, inputs=X, devices=BOTH):
    """Check that each replica returns the model's outputs, with weights and operations on its own device."""
    expected = model.predict(inputs, verbose=0)
    forms = replicas(model, devices)
    assert len(forms) == len(devices)
    for form, device in zip(forms, devices, strict=True):
        outputs, ran = placed(ModelRunner(form), inputs)
        for one, other in zip(tf.nest.flatten(outputs), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert weights_at(form) == {device}
        assert ran["MatMul"] == ran["ReadVariableOp"] == device
    return forms


# ---- Names -------------------------------------------------------------------------------------------


@on_two_cpus
def test_devices_may_be_named_in_each_way_that_tensorflow_knows():
    for name in ("CPU:1", "/CPU:1", "cpu:1", "/device:CPU:1", "/job:localhost/replica:0/task:0/device:CPU:1"):
        assert resolve_devices([name]) == ["CPU:1"]
    assert resolve_devices("CPU") == resolve_devices(None) == ["CPU:0"]
    assert resolve_devices(["CPU:1", "CPU:0", "CPU:1"]) == ["CPU:1", "CPU:0", "CPU:1"]
    assert resolve_devices([device.name for device in tf.config.list_logical_devices()]) == BOTH


@on_two_cpus
def test_a_device_that_does_not_exist_is_an_error_that_names_those_that_do():
    for name in ("CPU:2", "TPU:9", "/job:worker/replica:0/task:0/device:CPU:0", "the fast one", 3):
        with pytest.raises(ValueError, match=r"no such device. TensorFlow has CPU:0, CPU:1.*set_logical_device_conf"):
            resolve_devices([name])
    with pytest.raises(ValueError, match="name at least one"):
        resolve_devices([])


# ---- Memory ------------------------------------------------------------------------------------------


def test_without_a_gpu_growing_memory_does_nothing():
    program = """
        import tensorflow as tf
        from ringfeed.tf.models.devices import grow_memory, resolve_devices
        grow_memory(); resolve_devices(); grow_memory()
    """
    status, _, errors = run_program(program, CUDA_VISIBLE_DEVICES="-1", PYTHONWARNINGS="error::RuntimeWarning")
    assert status == 0, errors


class Gpus:
    """A fake of TensorFlow's functions for GPUs, because the test machine has no GPU."""

    def __init__(self, monkeypatch, initialised):
        self.grows, self.initialised = False, initialised
        gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
        monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda gpu: self.grows)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", self.set_growth)

    def set_growth(self, gpu, on):
        if self.initialised:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        self.grows = on


def test_memory_growth_is_switched_on_for_every_gpu(monkeypatch):
    gpus = Gpus(monkeypatch, initialised=False)
    grow_memory()
    assert gpus.grows


def test_memory_growth_that_cannot_be_switched_on_is_a_warning_with_the_remedy(monkeypatch):
    gpus = Gpus(monkeypatch, initialised=True)
    with pytest.warns(RuntimeWarning, match=r"GPU:0: memory growth is off.*before TensorFlow is first used"):
        grow_memory()
    gpus.grows = True
    with warnings.catch_warnings(action="error"):
        grow_memory()
        gpus.grows = False
        monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        grow_memory()


# ---- Replicas ----------------------------------------------------------------------------------------


@on_two_cpus
def test_a_sequential_model_runs_on_each_device_with_weights_of_its_own():
    model = dense_model()
    forms = assert_replicates(model)
    assert forms[0].keras_model is model
    assert forms[1].keras_model is not model


@on_two_cpus
def test_a_functional_model_is_copied_with_all_its_state():
    assert_replicates(functional_model(), {"a": X, "b": X + 1})


@on_two_cpus
def test_a_model_that_was_compiled_is_copied_without_its_optimizer():
    model = dense_model()
    model.compile("adam", lambda expected, given: tf.reduce_mean(expected - given))
    model.fit(X, X[:, :4], verbose=0)
    forms = assert_replicates(model)
    assert model.compiled
    assert not forms[1].keras_model.compiled


@on_two_cpus
def test_a_subclassed_model_is_copied_through_a_file():
    assert_replicates(built(Described(3)))


@on_two_cpus
def test_replicas_on_the_same_device_share_their_weights():
    forms = assert_replicates(dense_model(), devices=["CPU:1", "CPU:0", "CPU:1"])
    assert forms[0].keras_model is forms[2].keras_model


@on_two_cpus
def test_a_model_made_on_the_device_that_is_asked_for_is_used_as_it_is():
    with tf.device("CPU:1"):
        model = dense_model()
    assert assert_replicates(model, devices=["CPU:1"])[0].keras_model is model


@on_two_cpus
def test_a_path_is_loaded_for_each_device():
    model = dense_model()
    expected = model.predict(X, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        model.export(f"{folder}/exported", verbose=False)
        for path in (Path(folder) / "model.keras", f"{folder}/exported"):
            for form, device in zip(replicas(path, BOTH), BOTH, strict=True):
                outputs, ran = placed(ModelRunner(form), X)
                np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
                assert ran["MatMul"] == ran["ReadVariableOp"] == device


@on_two_cpus
def test_functions_without_variables_run_on_any_device():
    for function in (lambda x: tf.matmul(x, x, transpose_b=True), tf.function(lambda x: tf.matmul(x, tf.ones((7, 2))))):
        for form, device in zip(replicas(function, BOTH), BOTH, strict=True):
            outputs, ran = placed(ModelRunner(form), X)
            np.testing.assert_allclose(outputs, function(X), rtol=1e-5)
            assert ran["MatMul"] == device


@on_two_cpus
def test_a_list_gives_each_device_its_own_model():
    constants = [lambda x: x * 1.0, lambda x: x * 2.0]
    forms = replicas(constants, BOTH)
    assert [float(ModelRunner(form)(X)[0, 0] / X[0, 0]) for form in forms] == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"1 models for 2 devices \(CPU:0, CPU:1\)"):
        replicas([dense_model()], BOTH)


@on_two_cpus
def test_xla_compiles_a_replica_for_its_own_device():
    model = dense_model()
    for form in replicas(model, BOTH, jit_compile=True):
        np.testing.assert_allclose(ModelRunner(form)(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


@on_two_cpus
def test_a_model_that_cannot_be_copied_is_refused_with_the_remedy():
    opaque = built(Opaque(keras.layers.Dense(2)))
    with pytest.raises(ValueError, match=r"get_config.*Give a list of one model per device"):
        replicas(opaque, BOTH)
    with pytest.raises(ValueError, match="is not built"):
        replicas(Described(3), BOTH)
    model = dense_model()
    owner = tf.Module()
    owner.weight = tf.Variable(X.T)
    for function in (lambda x: model(x), tf.function(lambda x: x @ owner.weight), model.call):
        with pytest.raises(ValueError, match=r"cannot be put on CPU:1.*variables are on CPU:0.*Give a list"):
            replicas(function, BOTH)


@on_two_cpus
def test_a_function_that_hides_its_variables_is_refused_when_it_is_traced():
    hidden = [{"weight": tf.Variable(X.T)}]
    first, second = replicas(lambda x: x @ hidden[0]["weight"], BOTH)
    assert ModelRunner(first)(X).shape == (5, 5)
    with pytest.raises(ValueError, match=r"cannot be put on CPU:1.*Give a list"):
        ModelRunner(second)(X)


@on_two_cpus
def test_weights_that_stay_elsewhere_are_a_warning_and_give_the_same_values():
    opaque = built(Opaque(keras.layers.Dense(2)))
    with pytest.warns(RuntimeWarning, match=r"runs on CPU:1, but its variables are on CPU:0.*every call copies them"):
        (form,) = replicas(opaque, "CPU:1")
    outputs, ran = placed(ModelRunner(form), X)
    np.testing.assert_allclose(outputs, opaque.predict(X, verbose=0), rtol=1e-5)
    assert (ran["ReadVariableOp"], ran["MatMul"]) == ("CPU:0", "CPU:1")
    with pytest.warns(RuntimeWarning, match="XLA cannot compile it"):
        (compiled,) = replicas(opaque, "CPU:1", jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="located in device"):
        ModelRunner(compiled)(X)


@on_two_cpus
def test_a_model_that_is_not_built_yet_is_built_on_its_device():
    (form,) = replicas(Described(3), "CPU:1")
    assert ModelRunner(form)(X).shape == (5, 3)
    assert weights_at(form) == {"CPU:1"}

"""What is asked of Tune: a class once, not five times a trial."""

from ray.tune.registry import _global_registry as registry

from posweep.executors.ray import _looked_up_once


def test_a_class_is_looked_up_once_and_only_as_long_as_trials_run(monkeypatch):
    asked, there = [], {}
    monkeypatch.setattr(type(registry), "get", lambda _, *name: asked.append(name) or there[name])
    monkeypatch.setattr(type(registry), "contains", lambda _, *name: asked.append(name) or name in there)
    name = ("trainable_class", "Trial")
    with _looked_up_once():
        assert not registry.contains(*name)  # it is registered when the fit has begun
        there[name] = object
        assert [registry.contains(*name) for _ in range(3)] == [True] * 3
        assert [registry.get(*name) for _ in range(3)] == [object] * 3
        assert len(asked) == 3
    del there[name]
    assert not registry.contains(*name)

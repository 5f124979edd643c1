"""What several files here watch or stop: the attacks of an evaluation."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from pipeline.errors import Interrupted
from pipeline.evaluation.verdicts import Evaluation
from pipeline.store.records import Arrays


@pytest.fixture
def crafted(monkeypatch) -> Iterator[list[str]]:
    """Names of the attacks that run."""
    names, whole = list[str](), Evaluation.attack

    def attack(self: Evaluation, name: str, *rest: Any) -> Arrays:
        names.append(name)
        return whole(self, name, *rest)

    monkeypatch.setattr(Evaluation, "attack", attack)
    yield names


@pytest.fixture
def stopped_at(monkeypatch) -> Callable[[str], AbstractContextManager[None]]:
    """An evaluation inside that is stopped by a signal when an attack begins."""

    @contextmanager
    def stop(last: str) -> Iterator[None]:
        whole = Evaluation.attack

        def attack(self: Evaluation, name: str, *rest: Any) -> Arrays:
            if name == last:
                raise Interrupted(name)
            return whole(self, name, *rest)

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Evaluation, "attack", attack)
            yield

    return stop

from camcore.methods import METHODS
from tests.adapters.cli.calls import camcore, done


def test_methods_lists_the_registry() -> None:
    text = done(camcore("methods"))
    for method in METHODS.values():
        assert method.name in text
        assert method.summary in text
        assert method.paper in text

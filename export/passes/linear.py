"""The body of many passes that are not taken: behind the layer the model is linear in it."""

from torch import Tensor

from camcore.export.gradient.body import GradientBody, Passed


class LinearBody(GradientBody):
    """A tail that is linear in the activation: one pass back tells what every pass would score."""

    def _evidence(self, seen: Passed, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The activation, its gradients (K B, ...) and scores (K, B), for classes (B, K)."""
        (activation,) = seen.activations
        (found,) = self._pass_back(seen.saved, classes.t())
        scores = self.request.subject.target.explained(seen.ranking)
        return activation, found, scores.gather(1, classes).t()

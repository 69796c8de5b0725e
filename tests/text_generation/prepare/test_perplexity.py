import numpy as np
import pytest

from text_generation.prepare.perplexity import negative_log_likelihood


def test_likelihood_of_known_probabilities() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)
    logits = np.log(probabilities) + np.array([[1000.0], [-1000.0]], np.float32)  # softmax is not affected
    result = negative_log_likelihood(logits, np.array([1, 2]))
    assert result == pytest.approx(-np.log([0.25, 0.8]), abs=1e-3)

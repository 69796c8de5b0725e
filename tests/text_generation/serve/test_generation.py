from tokenizers import Tokenizer, models

from text_generation.serve.engines.base import NewTokens
from text_generation.serve.generation import Ends, Generation
from text_generation.serve.observation import Observation

END = 1


def test_answers_that_end_with_their_first_token_are_empty():
    steps = ([NewTokens([END]), NewTokens([END])] for _ in range(1))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": END}))
    with Generation(steps, [3, 3], tokenizer, Ends(frozenset([END]), frozenset()), Observation()) as generation:
        assert generation.join() == ["", ""]
    assert [completion.finish_reason for completion in generation.completions] == ["stop", "stop"]
    assert generation.token_count == 0

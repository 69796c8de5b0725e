"""Ask a served model and print its answer as it is generated."""

from clients import common

with common.slow_imports():
    from clients.answer import Answer
    from clients.arguments import parse_prompts
    from clients.requests import python_model
    from clients.terminal import growing_texts


def main() -> None:
    """Send one request with all prompts; print the completions piece by piece, then how long it took."""
    arguments = parse_prompts(__doc__)
    server = python_model(arguments.url, arguments.model_name, arguments.timeout, streaming=True)
    prompts = arguments.prompts
    if len(prompts) == 1 and not arguments.json:
        print(f"Question:\n{common.for_stdout(prompts[0])}\n", flush=True)

    answer = Answer(prompts)
    with growing_texts(common.titles(prompts), visible=not arguments.json) as texts:
        for name, value in server.stream(arguments.model_name, "pre_prompt", prompts):
            answer.add_output(name, value)
            texts.show(answer.completions)

    print(answer.as_json() if arguments.json else statistics(answer))


def statistics(answer: Answer) -> str:
    """Format the counts and times below an answer."""
    total_ms, responses = 1000 * answer.total_s, len(answer.arrivals_s)
    return (
        "END\n\n\n"
        f"Number of tokens  {answer.completion_tokens}\n"
        f"Generated tokens per second  {answer.tokens_per_second:.2f}\n"
        f"Time per generated token {total_ms / max(answer.completion_tokens, 1):.2f} ms\n"
        f"Total time {total_ms:.0f} ms\n"
        f"Number of responses {responses}\n"
        f"First response time {1000 * answer.first_s:.0f} ms\n"
        f"Average response time: {total_ms / max(responses, 1):.2f} ms"
    )


if __name__ == "__main__":
    common.run(main)

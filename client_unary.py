"""Ask a served model and print its complete answer."""

from clients import common

with common.slow_imports():
    from clients.answer import Answer
    from clients.arguments import parse_prompts
    from clients.requests import python_model


def main() -> None:
    """Send one request with all prompts; print the completions and how long they took."""
    arguments = parse_prompts(__doc__)
    server = python_model(arguments.url, arguments.model_name, arguments.timeout, streaming=False)

    answer = Answer(arguments.prompts)
    for name, value in server.infer(arguments.model_name, "pre_prompt", answer.prompts):
        answer.add_output(name, value)

    if arguments.json:
        print(answer.as_json())
        return
    if len(answer.prompts) == 1:
        [question], [completion] = answer.prompts, answer.completions
        print(f"Question:\n{common.for_stdout(question)}\n\nCompletion:\n{common.for_stdout(completion)}\n")
    else:
        common.print_blocks(common.titles(answer.prompts), answer.completions)
    print(f"Number of tokens  {answer.completion_tokens}")
    print(f"Generated tokens per second  {answer.tokens_per_second:.2f}")
    print(f"Time per generated token  {1000 * answer.total_s / max(answer.completion_tokens, 1):.2f} ms")
    print(f"Total time {1000 * answer.total_s:.0f} ms")


if __name__ == "__main__":
    common.run(main)

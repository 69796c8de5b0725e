"""Ask a served model and print its complete answer."""

import time

import client_common


def main() -> None:
    """Send one request with all prompts; print the completions and how long they took."""
    arguments = client_common.parse_arguments(__doc__)
    prompts = arguments.prompts
    client = client_common.connect(arguments.url, streaming=False)

    start = time.monotonic()
    response = client.infer(
        client_common.MODEL_NAME, client_common.pre_prompt(prompts), client_timeout=arguments.timeout
    )
    total_s = time.monotonic() - start

    completions = [completion.decode() for completion in response.as_numpy("completion")]
    if len(prompts) == 1:
        print(f"Question:\n{prompts[0]}\n\nCompletion:\n{completions[0]}\n")
    else:
        client_common.print_completions(prompts, completions)
    tokens = int(response.as_numpy("token_count")[0])
    print(f"Number of tokens  {tokens}")
    print(f"Generated tokens per second  {tokens / total_s:.2f}")
    print(f"Time per generated token  {1000 * total_s / max(tokens, 1):.2f} ms")
    print(f"Total time {1000 * total_s:.0f} ms")


if __name__ == "__main__":
    client_common.run(main)

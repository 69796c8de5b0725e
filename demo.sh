#!/usr/bin/env bash
# The whole demo: downloads, compresses and serves a chat model, and asks it for complete answers, a stream, and a
# conversation. `make demo` runs it.
#
# Reads MODEL, PORT and REST_PORT from the environment; by default the ports are free ones. Existing models are used as
# they are.
set -euo pipefail
cd "$(dirname "$0")"

MODEL=${MODEL:-smollm2-135m-instruct}
name=${MODEL##*/}  # for ORG/NAME, download_model.py creates the folder NAME
int8=${name}_INT8_compressed_weights
PATH="$PWD/.venv/bin:$PATH"
read -r free_port free_rest_port < <(python -c '
import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')
PORT=${PORT:-$free_port}
REST_PORT=${REST_PORT:-$free_rest_port}
log=$(mktemp)
server=
LOADING_S=600  # a 7B model from a slow disk
ANSWER_S=600

wait_for() {  # SECONDS COMMAND [ARGUMENT ...]: until the command succeeds
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

ended() {
    ! kill -0 "$server" 2>/dev/null
}

stop_server() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait_for 60 ended || kill -KILL "$server"
        wait "$server" || true
        server=
    fi
}
trap 'stop_server; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

show() {  # COMMAND [ARGUMENT ...]: as a user would type it
    printf '\n$'
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    echo
}

run() {  # COMMAND [ARGUMENT ...]
    show "$@"
    "$@"
}

limited() {  # COMMAND [ARGUMENT ...]
    local code=0
    timeout --foreground "$ANSWER_S" "$@" || code=$?
    [ "$code" -ne 124 ] || echo "no answer after $ANSWER_S seconds" >&2
    return "$code"
}

ask() {  # COMMAND [ARGUMENT ...]: as run, for a client
    show "$@"
    limited "$@"
}

rest() {  # PATH: whether the server answers with success; otherwise `failure` is curl's message
    failure=$(curl --noproxy localhost --silent --show-error --fail --max-time 10 --output /dev/null \
        "localhost:$REST_PORT$1" 2>&1)
}

ready_or_ended() {
    rest /v2/health/ready || ended
}

serve() {  # SERVABLE GRAPH
    printf '\n$ MODEL_PATH=%s python -m ovms_local --config_path %s/config.json --port %s --rest_port %s &\n' \
        "$int8" "$1" "$PORT" "$REST_PORT"
    SELECTED_MODEL=$name MODEL_PATH=$int8 \
        python -m ovms_local --config_path "$1/config.json" --port "$PORT" --rest_port "$REST_PORT" >"$log" 2>&1 &
    server=$!
    if ! wait_for "$LOADING_S" ready_or_ended; then
        echo "the server was not ready after $LOADING_S seconds: $failure; its log:" >&2
        cat "$log" >&2
        exit 1
    fi
    if ended; then
        echo "the server ended before it was ready:" >&2
        cat "$log" >&2
        exit 1
    fi
    # The server is ready even if its graph could not be loaded.
    if ! rest "/v2/models/$2/ready"; then
        echo "the server could not load the model:" >&2
        grep ' ERROR ' "$log" >&2
        exit 1
    fi
}

relativity="What is the theory of relativity?"
einstein="Who is Albert Einstein?"
request='{"inputs":[{"name" : "pre_prompt", "shape" : [1], "datatype" : "BYTES", "data" : ["'$relativity'"]}]}'

[ -f "$name/model_info.json" ] || run python download_model.py --model "$MODEL"
[ -f "$int8/model_info.json" ] || run python compress_model.py --model "$name"

serve servable_unary python_model
ask python client_unary.py --url "localhost:$PORT" --prompt "$relativity"
ask python client_unary.py --url "localhost:$PORT" -p "$relativity" -p "$einstein"
ask curl --noproxy localhost --silent --show-error --fail-with-body --header "Content-Type: application/json" \
    --data "$request" "localhost:$REST_PORT/v2/models/python_model/infer"
echo
stop_server

serve servable_stream python_model
ask python client_stream.py --url "localhost:$PORT" --prompt "$relativity"
ask python client_stream.py --url "localhost:$PORT" -p "$relativity" -p "$einstein"
stop_server

# The second question depends on the first.
questions=("What is the capital of Japan?" "What is its population?")
serve servable_chat chat_stream
chat=(python client_chat.py --url "localhost:$PORT" --temperature 0)
printf '\n$ printf "%%s\\n" "%s" "%s" | %s\n' "${questions[@]}" "${chat[*]}"
printf '%s\n' "${questions[@]}" | limited "${chat[@]}"

#!/usr/bin/env bash
# The whole demo: a chat model is downloaded, compressed, served and asked, unary and streaming. `make demo` runs it.
#
# MODEL, PORT and REST_PORT are taken from the environment; ports not given are free ones. Models that are there already
# are used as they are.
set -euo pipefail
cd "$(dirname "$0")"

MODEL=${MODEL:-smollm2-135m-instruct}
PATH="$PWD/.venv/bin:$PATH"
read -r free_port free_rest_port < <(python -c '
import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')
PORT=${PORT:-$free_port}
REST_PORT=${REST_PORT:-$free_rest_port}
log=$(mktemp)
server=

stop_server() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || true
        server=
    fi
}
trap 'stop_server; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run() {  # COMMAND [ARGUMENT ...]
    printf '\n$'
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    echo
    "$@"
}

serve() {  # SERVABLE
    printf '\n$ MODEL_PATH=%s python -m ovms_local --config_path %s/config.json --port %s --rest_port %s &\n' \
        "${MODEL}_INT8_compressed_weights" "$1" "$PORT" "$REST_PORT"
    SELECTED_MODEL=$MODEL MODEL_PATH=${MODEL}_INT8_compressed_weights \
        python -m ovms_local --config_path "$1/config.json" --port "$PORT" --rest_port "$REST_PORT" >"$log" 2>&1 &
    server=$!
    until curl --silent --fail --output /dev/null "localhost:$REST_PORT/v2/health/ready"; do
        if ! kill -0 "$server" 2>/dev/null; then
            echo "the server ended before it was ready:" >&2
            cat "$log" >&2
            exit 1
        fi
        sleep 0.2
    done
    # A server whose graph could not be loaded is ready all the same.
    if ! curl --silent --fail --output /dev/null "localhost:$REST_PORT/v2/models/python_model/ready"; then
        echo "the server could not load the model:" >&2
        grep ' ERROR ' "$log" >&2
        exit 1
    fi
}

relativity="What is the theory of relativity?"
einstein="Who is Albert Einstein?"
request='{"inputs":[{"name" : "pre_prompt", "shape" : [1], "datatype" : "BYTES", "data" : ["'$relativity'"]}]}'

[ -f "$MODEL/model_info.json" ] || run python download_model.py --model "$MODEL"
[ -f "${MODEL}_INT8_compressed_weights/model_info.json" ] || run python compress_model.py --model "$MODEL"

serve servable_unary
run python client_unary.py --url "localhost:$PORT" --prompt "$relativity"
run python client_unary.py --url "localhost:$PORT" -p "$relativity" -p "$einstein"
run curl --silent --show-error --fail-with-body --header "Content-Type: application/json" --data "$request" \
    "localhost:$REST_PORT/v2/models/python_model/infer"
echo
stop_server

serve servable_stream
run python client_stream.py --url "localhost:$PORT" --prompt "$relativity"
run python client_stream.py --url "localhost:$PORT" -p "$relativity" -p "$einstein"

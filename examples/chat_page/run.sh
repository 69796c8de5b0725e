#!/usr/bin/env bash
# Serves the demo's model with the chat servable, and the page in front of it, until Ctrl-C. `make chat` runs it.
#
# Reads MODEL, PORT, REST_PORT and CHAT_PORT from the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."

MODEL=${MODEL:-smollm2-135m-instruct}
name=${MODEL##*/}  # for ORG/NAME, download_model.py creates the folder NAME
PORT=${PORT:-9000}
REST_PORT=${REST_PORT:-8000}
CHAT_PORT=${CHAT_PORT:-7860}
int8=${name}_INT8_compressed_weights
python=.venv/bin/python
log=$(mktemp)
server= page=

finish() {  # ends the page first, so that the server has no answer to wait for
    for process in $page $server; do
        kill "$process" 2>/dev/null || true
        wait "$process" || true
    done
    rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -f "$name/model_info.json" ] || "$python" download_model.py --model "$MODEL"
[ -f "$int8/model_info.json" ] || "$python" compress_model.py --model "$name" --precision INT8

SELECTED_MODEL=$name MODEL_PATH=$int8 ENGINE=genai "$python" -m ovms_local \
    --config_path servable_chat/config.json --port "$PORT" --rest_port "$REST_PORT" >"$log" 2>&1 &
server=$!
examples/chat_page/.venv/bin/python examples/chat_page/app.py --url "127.0.0.1:$PORT" --port "$CHAT_PORT" >>"$log" 2>&1 &
page=$!

answers() {  # PATH ON THE PORT
    curl --noproxy '*' --silent --fail --max-time 5 --output /dev/null "127.0.0.1:$1"
}
deadline=$((SECONDS + 600))  # a 7B model from a slow disk
until answers "$REST_PORT/v2/models/chat_stream/ready" && answers "$CHAT_PORT/"; do
    if [ "$SECONDS" -ge "$deadline" ] || grep -q ' ERROR ' "$log" || ! kill -0 "$server" "$page" 2>/dev/null; then
        cat "$log" >&2
        exit 1
    fi
    sleep 0.2
done
echo "http://127.0.0.1:$CHAT_PORT/ (Ctrl-C to stop)"
wait -n "$server" "$page" || true
cat "$log" >&2
exit 1

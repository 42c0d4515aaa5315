#!/usr/bin/env bash
# The gateway without any SDK: models, an answer with its headers, a stream, the balance.
#
#     WEIR_BASE_URL=http://127.0.0.1:8080/v1 WEIR_API_KEY=sk-weir-... bash curl.sh
set -euo pipefail
: "${WEIR_BASE_URL:?set WEIR_BASE_URL, such as http://127.0.0.1:8080/v1}" "${WEIR_API_KEY:?set WEIR_API_KEY}"
model=${WEIR_MODEL:-smollm2}
ask() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer $WEIR_API_KEY" "$@"; }

echo "== models"
ask "$WEIR_BASE_URL/models"; echo

echo "== an answer, with its headers"
ask --include "$WEIR_BASE_URL/chat/completions" --json @- <<JSON
{"model": "$model", "max_tokens": 40, "messages": [{"role": "user", "content": "Say hello to a fisherman."}]}
JSON
echo

echo "== a stream"
ask --no-buffer "$WEIR_BASE_URL/chat/completions" --json @- <<JSON
{"model": "$model", "max_tokens": 20, "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Say hello."}]}
JSON

echo "== the balance"
ask "$WEIR_BASE_URL/credits"; echo

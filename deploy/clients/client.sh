#!/usr/bin/env bash
# Ask theo-router a question from a shell. Needs only redis-cli.
#
# ./client.sh "Say hi"             REDIS_URL says where Redis is; default redis://127.0.0.1:6379/0
set -euo pipefail

redis() { redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379/0}" --no-auth-warning "$@"; }

reply_to="theo:reply:$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')" # a stream of this job's own
redis XADD theo:jobs '*' prompt "$1" reply_to "$reply_to" ttl_ms 60000 > /dev/null

# Without `stream 1` the only entry is the final reply. Names and values come on alternate lines; text of several
# lines takes several, which is why programs should use a client library.
reply=""
while [ -z "$reply" ]; do
    reply=$(redis XREAD COUNT 1 BLOCK 5000 STREAMS "$reply_to" 0)
done
redis UNLINK "$reply_to" > /dev/null # else it disappears by itself, after reply.ttl_s

field() { sed -n "/^$1\$/{n;p;q;}" <<< "$reply"; }
if [ "$(field status)" = ok ]; then
    sed -n '/^output$/,/^finish_reason$/p' <<< "$reply" | sed '1d;$d'
    echo "$(field model), $(field completion_tokens) tokens, $(field cost) USD"
else
    echo "$(field error_code): $(field error_message)" >&2
    exit 1
fi

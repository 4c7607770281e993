#!/bin/sh
# Gives a Kafka user exactly the rights that one program of loggpt-stream needs:
#
#   PRINCIPAL=User:loggpt  BOOTSTRAP=broker:9092  COMMAND_CONFIG=admin.properties  deploy/kafka/acls.sh run
#
# run                  the daemon, `loggpt-stream run`
# doctor               what `loggpt-stream doctor` sees more with, for the same user
# dead-letters         `loggpt-stream dead-letters`, for an operator: another user than the daemon's; with a router once
#                      more with INPUT_TOPIC=openstack-logs-raw, where letters that came through it are put back
# route                the stage that keys the input by session, `loggpt-stream route`
# create-topics        `loggpt-stream doctor --create-topics`, for whoever sets up; take the rights back after that
# create-route-topics  `loggpt-stream route --create-topics`, likewise
#
# Topics and groups have the daemon's defaults and are changed by the variables below. DRY_RUN=1 shows the commands
# only. What Kafka implies is left out: Read and Write imply Describe, and a transaction needs no IdempotentWrite.
set -eu

: "${PRINCIPAL:?whom to give the rights to, such as User:loggpt, or User:CN=loggpt for a certificate}"
: "${BOOTSTRAP:=localhost:9092}"
: "${COMMAND_CONFIG:=}" # how the administrator logs in, as for every kafka-*.sh
: "${KAFKA_ACLS:=kafka-acls.sh}"
: "${INPUT_TOPIC:=openstack-logs}"
: "${ALERT_TOPIC:=loggpt-alerts}"
: "${DEAD_LETTER_TOPIC:=loggpt-dead-letters}"
: "${STATE_TOPIC:=loggpt-state}"
: "${SCORE_TOPIC:=}" # only where score_topic is set
: "${GROUP:=loggpt-stream}"
: "${RAW_TOPIC:=openstack-logs-raw}" # what route reads; it writes INPUT_TOPIC, which the daemon reads
: "${ROUTE_STATE_TOPIC:=loggpt-route-state}"
: "${ROUTE_GROUP:=loggpt-route}"

allow() {
    ${DRY_RUN:+echo} "$KAFKA_ACLS" --bootstrap-server "$BOOTSTRAP" ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} \
        --add --allow-principal "$PRINCIPAL" "$@"
}

# Arguments: input topic, state topic, group. Transactional ids are GROUP-INPUT_TOPIC-PARTITION.
allow_exactly_once() {
    allow --operation Read --topic "$1"
    # DescribeConfigs: so that a state topic that is not compacted is refused.
    allow --operation Read --operation Write --operation DescribeConfigs --topic "$2"
    allow --operation Read --group "$3"
    allow --operation Write --transactional-id "$3-$1-" --resource-pattern-type prefixed
}

allow_creating() {
    for topic in "$@"; do
        allow --operation Create --operation Describe --operation DescribeConfigs --topic "$topic"
    done
}

case "${1:-}" in
run)
    allow_exactly_once "$INPUT_TOPIC" "$STATE_TOPIC" "$GROUP"
    for topic in "$ALERT_TOPIC" "$DEAD_LETTER_TOPIC" ${SCORE_TOPIC:+"$SCORE_TOPIC"}; do
        allow --operation Write --topic "$topic"
    done
    ;;
doctor)
    for topic in "$INPUT_TOPIC" "$ALERT_TOPIC" "$DEAD_LETTER_TOPIC" ${SCORE_TOPIC:+"$SCORE_TOPIC"}; do
        allow --operation DescribeConfigs --topic "$topic"
    done
    ;;
dead-letters)
    allow --operation Read --operation Write --topic "$DEAD_LETTER_TOPIC"
    allow --operation Write --topic "$INPUT_TOPIC"
    allow --operation Write --transactional-id "$GROUP-$INPUT_TOPIC-reinject"
    ;;
route)
    allow_exactly_once "$RAW_TOPIC" "$ROUTE_STATE_TOPIC" "$ROUTE_GROUP"
    allow --operation Write --topic "$INPUT_TOPIC"
    ;;
create-topics)
    allow_creating "$INPUT_TOPIC" "$STATE_TOPIC" "$ALERT_TOPIC" "$DEAD_LETTER_TOPIC" ${SCORE_TOPIC:+"$SCORE_TOPIC"}
    ;;
create-route-topics)
    allow_creating "$RAW_TOPIC" "$ROUTE_STATE_TOPIC" "$INPUT_TOPIC"
    ;;
*)
    sed -n '2,/^set -eu/{/^#/!d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 2
    ;;
esac

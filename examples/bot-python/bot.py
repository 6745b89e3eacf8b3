#!/usr/bin/env python3
"""A bot for Patchbay with nothing but Python's standard library: Redis over a raw socket, the bot contract as JSON.

    python3 bot.py BOT_ID PHONE_NUMBER [redis://[user:password@]host:port]

It greets every caller, transfers him to PHONE_NUMBER, tells him how that went, and hangs up.
It reads the stream, so that no event is lost while it talks; docs/bot-contract.md has everything else.
"""
import json
import socket
import sys
from urllib.parse import unquote, urlsplit


class Redis:
    """As much of the Redis protocol (RESP2) as a bot needs."""

    def __init__(self, url):
        at = urlsplit(url)
        self.socket = socket.create_connection((at.hostname or "127.0.0.1", at.port or 6379))
        self.lines = self.socket.makefile("rb")
        if at.password:
            user = [unquote(at.username)] if at.username else []
            self.call("AUTH", *user, unquote(at.password))

    def send(self, *words):
        parts = [str(word).encode() for word in words]
        head = b"*%d\r\n" % len(parts)
        self.socket.sendall(head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))

    def call(self, *words):
        self.send(*words)
        return self.reply()

    def reply(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("Redis closed the connection")
        kind, text = line[:1], line[1:].rstrip(b"\r\n")
        if kind == b"-":
            raise RuntimeError(text.decode())
        if kind == b":":
            return int(text)
        if kind == b"+":
            return text
        size = int(text)
        if size < 0:
            return None
        if kind == b"$":
            return self.lines.read(size + 2)[:-2]
        return [self.reply() for _ in range(size)]


def events(redis, bot_id):
    """Every event of every call of the bot, from now on."""
    stream = "pb:{%s}:events" % bot_id
    redis.send("XREAD", "BLOCK", 0, "STREAMS", stream, "$")
    print("waiting for calls", flush=True)
    while True:
        for _stream, entries in redis.reply():
            for entry, fields in entries:
                last = entry.decode()
                yield json.loads(fields[1])
        redis.send("XREAD", "BLOCK", 0, "STREAMS", stream, last)


def main(bot_id, number, url="redis://127.0.0.1:6379"):
    listening, talking = Redis(url), Redis(url)

    def tell(event, name, *replies):
        command = {"commandId": f"{event['callId']}-{name}", "replies": list(replies)}
        if talking.call("PUBLISH", event["replyTo"], json.dumps(command)) == 0:
            print("nobody holds this call any more")

    for event in events(listening, bot_id):
        if event["event"] == "call":
            tell(event, "greet", {"type": "text", "text": "Hello! I am transferring you to an operator."},
                 {"type": "switch", "phoneNumber": number, "timeout": "30", "continueCall": True})
        elif event["event"] == "transfer":
            status = event["transferStatus"]
            print("transfer:", json.dumps(status), event["transferDetails"]["cause"], flush=True)
            if not status["hangup"]:
                words = "Thank you for calling." if status["status"] == "SUCCESS" else "No operator is free."
                tell(event, "thank", {"type": "text", "text": words}, {"type": "hangup"})
        elif event["event"] == "rejected":
            print("rejected:", event["code"], event["message"], event["pointer"], flush=True)
        elif event["event"] == "hangup":
            print("over, ended by the", event["by"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:4])
    except KeyboardInterrupt:
        pass

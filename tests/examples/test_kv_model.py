"""20,000 random operations by redis-py against dicts, over four connections at once, one of them at a time on each key.

Times to live are long or already past, so that only their presence counts.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kv_server import Server

CONNECTIONS = 4
ROUNDS = 4
OPERATIONS = 250  # by each connection in each round
KEYS = 12  # of each connection
EXAMPLES = 5

VALUES = (b"", b"0", b"7", b"-12", b"9223372036854775807", b"text", b"a\r\nb", b"\x00\xff" * 40, b"x" * 70_000)
NOT_AN_INTEGER = "value is not an integer or out of range"


class Model:
    """What Redis would answer for these keys; `expiring` are those with a time to live."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self.values: dict[bytes, bytes] = {}
        self.expiring: set[bytes] = set()

    def operation(self, rng: random.Random) -> tuple[list[object], object]:
        """A random command, done here, and the reply that it should get."""
        key, value = rng.choice(self.keys), rng.choice(VALUES)
        old = self.values.get(key)
        some = rng.choices(self.keys, k=rng.randrange(1, 6))
        match rng.randrange(20):
            case 0 | 1:
                return ["SET", key, value], self.put(key, value)
            case 2:
                self.put(key, value)
                self.expiring.add(key)
                unit = rng.choice((["EX", 5_000], ["px", 5_000_000], ["EXAT", 10**10], ["PXAT", 10**13]))
                return ["SET", key, value, *unit], b"OK"
            case 3:
                self.delete(key)
                return ["SET", key, value, "PXAT", 1], b"OK"
            case 4:
                option = rng.choice(("NX", "XX"))
                if (option == "NX") == (old is None):
                    self.put(key, value)
                    return ["SET", key, value, option], b"OK"
                return ["SET", key, value, option], None
            case 5:
                self.values[key] = value
                return ["SET", key, value, "GET", "KEEPTTL"], old
            case 6 | 7:
                return ["GET", key], old
            case 8:
                self.delete(key)
                return ["GETDEL", key], old
            case 9:
                return [rng.choice(("DEL", "UNLINK")), *some], sum([self.delete(one) for one in some])
            case 10:
                return ["EXISTS", *some], sum([one in self.values for one in some])
            case 11:
                name, by = rng.choice((("INCR", 1), ("DECR", -1)))
                return [name, key], self.add(key, by)
            case 12:
                by = rng.choice((5, -5, 2**63 - 1, -(2**63) + 1))
                return rng.choice((["INCRBY", key, by], ["DECRBY", key, -by])), self.add(key, by)
            case 13:
                self.values[key] = (old or b"") + value[:100]
                return ["APPEND", key, value[:100]], len(self.values[key])
            case 14:
                return ["STRLEN", key], len(old or b"")
            case 15:
                return ["MGET", *some], [self.values.get(one) for one in some]
            case 16:
                pairs = [(one, rng.choice(VALUES)) for one in some]
                for one, new in pairs:
                    self.put(one, new)
                return ["MSET", *[item for pair in pairs for item in pair]], b"OK"
            case 17:
                if old is not None:
                    self.expiring.add(key)
                return rng.choice((["EXPIRE", key, 5_000], ["PEXPIRE", key, 5_000_000])), int(old is not None)
            case 18:
                if rng.random() < 0.3:
                    return ["EXPIRE", key, -1], int(self.delete(key))
                persisted = key in self.expiring
                self.expiring.discard(key)
                return ["PERSIST", key], int(persisted)
            case _:
                left = -2 if old is None else 1 if key in self.expiring else -1
                return [rng.choice(("TTL", "PTTL")), key], left

    def put(self, key: bytes, value: bytes) -> bytes:
        self.values[key] = value
        self.expiring.discard(key)
        return b"OK"

    def delete(self, key: bytes) -> bool:
        self.expiring.discard(key)
        return self.values.pop(key, None) is not None

    def add(self, key: bytes, by: int) -> object:
        text = self.values.get(key, b"0")
        number = int(text) if text.removeprefix(b"-").isdigit() else 0
        if b"%d" % number != text or not -(2**63) <= number < 2**63:
            return NOT_AN_INTEGER
        if not -(2**63) <= number + by < 2**63:
            return "increment or decrement would overflow"
        self.values[key] = b"%d" % (number + by)
        return number + by


def as_expected(command: list[object], reply: object) -> object:
    """A time to live is only compared for its presence, an error for its text."""
    if command[0] in ("TTL", "PTTL") and isinstance(reply, int):
        return min(reply, 1)
    return str(reply) if isinstance(reply, redis.ResponseError) else reply


def one_round(client: redis.Redis, model: Model, rng: random.Random) -> None:
    left = OPERATIONS
    while left:
        operations = [model.operation(rng) for _ in range(min(left, rng.choice((1, 1, 1, 8, 50))))]
        left -= len(operations)
        with client.pipeline(transaction=False) as pipeline:
            pipeline.response_callbacks.clear()
            for command, _ in operations:
                pipeline.execute_command(*command)
            replies = pipeline.execute(raise_on_error=False)
        for (command, expected), reply in zip(operations, replies, strict=True):
            assert as_expected(command, reply) == expected, command


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a seed can't be made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_operations_against_a_model(kv: Server, seed: int) -> None:
    """Hypothesis shows the seed of a run that fails."""
    models = [Model([b"%d:%d" % (part, number) for number in range(KEYS)]) for part in range(CONNECTIONS)]
    clients = [kv.client(protocol=2 + number % 2) for number in range(CONNECTIONS)]
    clients[0].execute_command("FLUSHALL")
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for turn in range(ROUNDS):  # each connection has the next one's keys in the next round
            rngs = [random.Random(f"{seed} {turn} {number}") for number in range(CONNECTIONS)]
            list(pool.map(one_round, clients, models[turn:] + models[:turn], rngs))
    for client in clients:
        client.close()


def test_the_number_of_operations() -> None:
    assert EXAMPLES * CONNECTIONS * ROUNDS * OPERATIONS == 20_000

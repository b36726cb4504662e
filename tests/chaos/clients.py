"""The clients: they carry the plans out, at their own pace or at random.

Owns the connections and when each request is sent. It must never know which answer is right: the account judges.
"""

import asyncio
import socket
import struct

from benchmarks.connection import Address, Connection, NotHttp, Reply
from tests.chaos.account import Account
from tests.chaos.mix import Mix
from tests.chaos.plans import Plan

MAX_CONNECTIONS = 2_000
MEASURING_CLIENTS = 32
CLIENT_TIMEOUT_S = 30.0  # of a client: ten times what the server promises


class Client(Connection):
    """A connection whose client may send in parts, and leave with a reset."""

    def send(self, part: bytes) -> None:
        if self._transport is not None and self.usable:
            self._transport.write(part)

    def reset(self) -> None:
        if self._transport is not None and self.usable:  # it may be closed already: by the server, or by a late answer
            opened = self._transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


async def carry_out(plan: Plan, client: Client) -> Reply | None:
    """The answer, or None if the client left before it. Raises `OSError`, `NotHttp`."""
    reply = asyncio.ensure_future(client.exchange(plan.parts[0]))
    try:
        for part in plan.parts[1:]:
            await asyncio.wait({reply}, timeout=plan.pause_s)
            client.send(part)
        if plan.leaves:
            await asyncio.wait({reply}, timeout=plan.pause_s)
            if not reply.done():
                return None
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            return await reply
    finally:
        reply.cancel()
        await asyncio.wait({reply})


class Clients:
    """All clients. With `keep`, connections are used again after an answer to a request that was sent whole."""

    def __init__(self, address: Address, account: Account, *, keep: bool) -> None:
        self.address = address
        self.account = account
        self.keep = keep
        self._idle: list[Client] = []
        self._open = 0

    @property
    def full(self) -> bool:
        return self._open >= MAX_CONNECTIONS

    async def ask(self, plan: Plan) -> Reply | None:
        self.account.begin(plan)
        self._open += 1
        try:
            client = await self._take()
            reply = await self._ask(plan, client)
        except (OSError, NotHttp) as error:
            self.account.fail(plan, error)
            return None
        finally:
            self._open -= 1
        self.account.end(plan, reply)
        return reply

    async def _ask(self, plan: Plan, client: Client) -> Reply | None:
        reply = None
        try:
            reply = await carry_out(plan, client)
        finally:
            is_whole = len(plan.parts) == 1 and not plan.leaves
            if self.keep and reply is not None and is_whole and client.usable:
                self._idle.append(client)
            elif plan.resets:
                client.reset()
            else:
                client.close()
        return reply

    async def _take(self) -> Client:
        while self._idle:
            if (client := self._idle.pop()).usable:
                return client
        _, client = await asyncio.get_running_loop().create_connection(Client, *self.address)
        return client

    def close(self) -> None:
        for client in self._idle:
            client.close()


async def closed_loop(clients: Clients, mix: Mix, seconds: float) -> float:
    """The right answers in a second when clients that nothing is wrong with always have their next request at hand."""
    loop, answers = asyncio.get_running_loop(), clients.account.answers
    started, before = loop.time(), answers["plain", 200]

    async def ask_on() -> None:
        while loop.time() < started + seconds:
            await clients.ask(mix.make("plain"))

    await asyncio.gather(*(ask_on() for _ in range(MEASURING_CLIENTS)))
    return (answers["plain", 200] - before) / (loop.time() - started)


async def open_loop(clients: Clients, mix: Mix, per_second: float, seconds: float) -> None:
    """Arrivals at random, however many are unanswered, up to the most connections."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while (due := due + mix.pause_s(per_second)) < end:
            plan = mix.next()
            await asyncio.sleep(due - loop.time())
            if clients.full:
                clients.account.held_back += 1
            else:
                group.create_task(clients.ask(plan))

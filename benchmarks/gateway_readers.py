"""Many readers of streams, in a process of their own: when does each get what a trainer wrote.

python gateway_readers.py PORT SECONDS READERS JOB…   prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from websockets.asyncio.client import connect

MEASURED = 100_000
"""Steps from here on are measured."""


async def main() -> None:
    """Read until the time is over, and print how late messages were."""
    port, seconds, readers, *jobs = sys.argv[1:]
    addresses = [f"ws://127.0.0.1:{port}/ws/training/jobs/{job}" for job in jobs]
    delays: list[float] = []
    ready = asyncio.Semaphore(0)
    got = [0] * int(readers)

    async def read(number: int) -> None:
        await asyncio.sleep(number / 200)  # not all at the same moment
        address = addresses[number % len(addresses)]
        async with connect(address, compression=None, open_timeout=120) as socket:
            await socket.recv()  # from here on it gets all
            ready.release()
            async for text in socket:
                now = time.time()
                data = json.loads(text)["data"]
                if data.get("step", 0) >= MEASURED and "sent" in data:
                    delays.append(now - data["sent"])
                    got[number] += 1

    tasks = [asyncio.create_task(read(number)) for number in range(int(readers))]
    waiting = asyncio.create_task(_all(ready, len(tasks)))
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if waiting not in done:
        sys.exit(f"a reader ended: {done.pop().exception()!r}")
    print("ready", flush=True)
    await asyncio.wait(tasks, timeout=float(seconds))
    failed = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    delays.sort()
    facts = {"median": delays[len(delays) // 2], "p99": delays[int(len(delays) * 0.99)]}
    facts |= {"largest": delays[-1], "messages": len(delays), "least": min(got), "ended": failed}
    print(json.dumps(facts), flush=True)


async def _all(ready: asyncio.Semaphore, count: int) -> None:
    for _ in range(count):
        await ready.acquire()


if __name__ == "__main__":
    asyncio.run(main())

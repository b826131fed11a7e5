"""The network between everybody and the exchange: it loses, repeats and delays what is said, in both directions."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from market.commands import Command
from market.exchange import Exchange, Outcome
from market.outcomes import Refusal
from tests.storms.faults import Weather
from tests.storms.house import Away, House
from tests.storms.promises import Promises

LONGEST_DELAY_S = 12.0
PATIENCE_S = 3.0
"""After so long without an answer a caller says it again, under the same id."""


class Network:
    """One for all. While `calm` nothing is lost."""

    def __init__(self, house: House, weather: Weather, random: Random, promises: Promises) -> None:
        self.calm = False
        self._house = house
        self._weather = weather
        self._random = random
        self.promises = promises
        self._sent = 0
        self._newest_seen = 0

    async def say(self, command: Command) -> Outcome | None:
        """Said once; the answer, or None where none came in time."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        self._sent += 1
        number = self._sent
        copies = 1
        if not self.calm and self._weather.strikes("duplication", self._weather.twice):
            copies = 2
            self._weather.count["message twice"] += 1
        for _ in range(copies):
            if not self._is_lost("message lost"):
                loop.call_later(self._delay_s(), self._arrive, number, command, answer)
        try:
            outcome = await asyncio.wait_for(answer, PATIENCE_S)
        except TimeoutError:
            return None
        self.promises.heard(command, outcome)
        return outcome

    async def sure(self, command: Command) -> Outcome:
        """Said again, the same, until there is an answer."""
        wait_s = 0.5
        while (outcome := await self.say(command)) is None:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 8.0)
        if not isinstance(outcome.answer, Refusal) and not outcome.created:
            self._weather.count["answered as known"] += 1
        return outcome

    async def look(self, question: Callable[[Exchange], Any]) -> Any:
        """An answer of the read side, or None."""
        await asyncio.sleep(0.02)
        if self._is_lost("message lost"):
            return None
        try:
            return self._house.look(question)
        except Away:
            return None

    def _arrive(self, number: int, command: Command, answer: "asyncio.Future[Outcome]") -> None:
        self._weather.count["message overtaken"] += number < self._newest_seen
        self._newest_seen = max(self._newest_seen, number)

        def reply(outcome: Outcome) -> None:
            self.promises.answered(command, outcome, self._house.records)
            if self._is_lost("answer lost"):
                return
            asyncio.get_running_loop().call_later(self._delay_s(), lambda: None if answer.done() else answer.set_result(outcome))

        self._house.serve(command, reply)

    def _is_lost(self, what: str) -> bool:
        lost = not self.calm and self._weather.strikes("loss", self._weather.loss)
        self._weather.count[what] += lost
        return lost

    def _delay_s(self) -> float:
        delay_s = self._random.uniform(0.01, 0.1)
        if not self.calm and self._weather.strikes("delay", self._weather.late):
            self._weather.count["message late"] += 1
            delay_s += self._random.uniform(0.5, LONGEST_DELAY_S - 0.2)
        return delay_s

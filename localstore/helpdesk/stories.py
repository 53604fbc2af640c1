"""The world of the generated help desk: companies, people, and the stories of their tickets."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from localstore.helpdesk.scenes import LANGUAGES, Language, Scene

FIRST_TICKET = datetime(2024, 3, 4, 7, 30, tzinfo=UTC)
_CITIES = ("Kiel", "Leeds", "Busan", "大阪", "Málaga", "São Paulo", "Zürich", "Łódź")
_CODES = ("E-1042", "0x80070643", "ERR_SYNC_43", "BLE-17", "AUTH-403", "4711")
_LONG_BODY_SHARE = 0.03
_LOG_LINES_MAX = 900
_MACHINES = ("radio", "power", "sync", "store", "ui")

_AGENTS = (("Noor", "Haddad"), ("Felix", "Brandt"), ("Yuna", "Han"), ("Inés", "Calvo"))


@dataclass(frozen=True, slots=True)
class Company:
    """A company of the generated world: what it sells, its help desk and the languages of its customers."""

    name: str
    platform: str
    project: str
    languages: tuple[str, ...]
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who writes."""

    number: int
    first: str
    last: str
    email: str

    @property
    def name(self) -> str:
        """Return the full name."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a story."""

    author: Person
    text: str
    at: datetime
    private: bool = False


@dataclass(frozen=True, slots=True)
class Story:
    """A ticket before it takes a help desk's shape. `progress` is 0 new, 1 answered, 2 solved, 3 closed."""

    number: int
    scene: Scene
    language: str
    title: str
    body: str
    urgency: int
    progress: int
    customer: Person
    agent: Person | None
    opened: datetime
    changed: datetime
    messages: tuple[Message, ...] = ()


_COMPANIES = (
    Company(
        "nordlicht",
        "freshdesk",
        "NORD",
        ("de", "en"),
        ("Polaris Fahrradlampe", "Fjord GPS", "Heizkörperthermostat H2", "Kopfhörer “Stille”"),
    ),
    Company("hanbit", "jira", "HAN", ("ko", "en", "ja"), ("한빛노트", "Lumen Sync", "翻訳メモ", "Hanbit Viewer")),
    Company(
        "azulmar",
        "zendesk",
        "AZM",
        ("es", "en", "ja", "de"),
        ("reloj Marea", "Brisa Tracker", "mochila Ola 30L", "☀️Sol"),
    ),
)


def company_at(place: int) -> Company:
    """Return the company at this place; there is no last one."""
    round_, position = divmod(place, len(_COMPANIES))
    company = _COMPANIES[position]
    if not round_:
        return company
    return Company(
        f"{company.name}-{round_ + 1}", company.platform, company.project, company.languages, company.products
    )


def scenes_of(company: Company) -> list[tuple[Language, Scene]]:
    """Return all troubles that the company's customers can have."""
    return [(LANGUAGES[code], scene) for code in company.languages for scene in LANGUAGES[code].scenes]


def tell(company: Company, number: int, opened: datetime, chance: random.Random) -> Story:
    """Make up a ticket that was opened at this moment."""
    language, scene = chance.choice(scenes_of(company))
    customer = _customer(company, language, chance)
    agent = _agent(company, chance) if chance.random() < 0.85 else None
    facts = {
        "product": chance.choice(company.products),
        "version": f"{chance.randint(1, 6)}.{chance.randint(0, 12)}.{chance.randint(0, 9)}",
        "order": f"{company.project}-{chance.randint(10_000, 99_999)}",
        "city": chance.choice(_CITIES),
        "code": chance.choice(_CODES),
        "days": str(chance.randint(2, 12)),
        "customer": customer.first,
        "agent": agent.first if agent else "",
    }
    body = "\n\n".join(text.format(**facts) for text in (language.greeting, scene.opening, language.closing))
    if chance.random() < _LONG_BODY_SHARE:
        body += "\n\n" + _device_log(opened, chance)
    said = chance.randint(0, len(scene.thread)) if agent else 0
    messages: list[Message] = []
    moment = opened
    for place, text in enumerate(scene.thread[:said]):
        moment += timedelta(minutes=chance.randint(4, 2_000))
        author = customer if place % 2 or agent is None else agent
        messages.append(Message(author, text.format(**facts), moment))
        if agent and place == 0 and chance.random() < 0.25:
            moment += timedelta(minutes=chance.randint(1, 30))
            messages.append(Message(agent, language.private_note.format(**facts), moment, private=True))
    ended = said == len(scene.thread)
    return Story(
        number=number,
        scene=scene,
        language=language.code,
        title=scene.subject.format(**facts),
        body=body,
        urgency=chance.choices((1, 2, 3, 4), (4, 6, 3, 1))[0],
        progress=chance.choice((2, 3)) if ended else 1 if said else 0,
        customer=customer,
        agent=agent,
        opened=opened,
        changed=moment,
        messages=tuple(messages),
    )


def _customer(company: Company, language: Language, chance: random.Random) -> Person:
    place = chance.randrange(len(language.names))
    first, last = language.names[place]
    return Person(60_000 + 100 * list(LANGUAGES).index(language.code) + place, first, last,
                  f"{company.name}.{language.code}{place + 1}@example.com")  # fmt: skip


def _agent(company: Company, chance: random.Random) -> Person:
    place = chance.randrange(len(_AGENTS))
    first, last = _AGENTS[place]
    return Person(500 + place, first, last, f"support{place + 1}@{company.name}.example.com")


def _device_log(start: datetime, chance: random.Random) -> str:
    lines: list[str] = []
    moment = start
    for _ in range(chance.randint(_LOG_LINES_MAX // 10, _LOG_LINES_MAX)):
        moment += timedelta(milliseconds=chance.randint(1, 90_000))
        machine = chance.choice(_MACHINES)
        level = chance.choices(("D", "I", "W", "E"), (6, 8, 2, 1))[0]
        register = f"0x{chance.getrandbits(32):08x}"
        lines.append(f"{moment:%Y-%m-%dT%H:%M:%SZ} {level}/{machine}\t{register} state={chance.randint(0, 7)}")
    return "\n".join(lines)

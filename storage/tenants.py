"""Who may see which rows of the books, and how a query is refused. A customer sees its own jobs, a provider its
own leases, an operator everything, anybody else nothing."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks: a member and its role (`customer`, `provider`, `operator`)."""

    member: str
    role: str

    def may_see(self) -> tuple[str, list[Any]]:
        """A condition over the columns `customer` and `provider`, and its parameters."""
        if self.role == "operator":
            return "true", []
        if self.role in ("customer", "provider"):
            return f"{self.role} = ?", [self.member]
        return "false", []


@dataclass(frozen=True, slots=True)
class QueryRefused:
    """A query that is not answered: a stable code, a sentence, the parameter it is about, and what would help."""

    code: str
    message: str
    field: str | None = None
    remedy: str | None = None

"""What is written on an invoice, in the languages that invoices are written in. Pure; exports print it as it is here."""

from billing.money import format_credits

_WORDS = {
    "en": {
        "fee": "Plan {plan} version {version}",
        "top_up": "{credits} credits",
        "usage": "Use of {model}{project}",
        "overage": "Use of {model}{project}, past the credits",
        "correction": "Use of {model}{project}, booked late",
        "credit": "Credit for line {seq} of {number}: {what}",
        "project": ", project {project}",
        "terms": "Payable within {days} days, by {due}",
        "at_once": "Payable at once",
    },
    "zh": {
        "fee": "套餐 {plan} 第 {version} 版",
        "top_up": "{credits} 积分",
        "usage": "{model}{project} 用量",
        "overage": "{model}{project} 超出积分的用量",
        "correction": "{model}{project} 迟到用量",
        "credit": "{number} 第 {seq} 行贷记：{what}",
        "project": "（项目 {project}）",
        "terms": "请于 {days} 天内（{due} 前）付款",
        "at_once": "请立即付款",
    },
}


def fee(language: str, plan: str, version: int) -> str:
    """Say what a fee is for."""
    return _say(language, "fee", plan=plan, version=version)


def top_up(language: str, ncr: int, note: str) -> str:
    """Say what was sold, with what was noted about it."""
    said = _say(language, "top_up", credits=format_credits(ncr))
    return f"{said}: {note}" if note else said


def use(language: str, kind: str, model: str, project: str | None) -> str:
    """Say what was used: `kind` is usage, overage or correction."""
    return _say(language, kind, model=model, project="" if project is None else _say(language, "project", project=project))


def credit(language: str, seq: int, number: str, what: str) -> str:
    """Say which line of which invoice a credit is for."""
    return _say(language, "credit", seq=seq, number=number, what=what)


def terms(language: str, days: int, due: str) -> str:
    """Say until when to pay."""
    return _say(language, "terms", days=days, due=due) if days else _say(language, "at_once")


def _say(language: str, name: str, /, **parts: object) -> str:
    return _WORDS[language][name].format(**parts)

"""What a caller is told: a status and one sentence."""

from __future__ import annotations

# The code of who ends, and takes nothing more.
LEAVING = "leaving"


class GatewayError(Exception):
    """`retry_after` in seconds, where trying again may help."""

    def __init__(self, status: int, detail: str, *, code: str = "", retry_after: int | None = None) -> None:
        # What was sent may hold half a character, which no answer can.
        detail = detail.encode(errors="backslashreplace").decode()
        super().__init__(detail)
        self.status, self.detail, self.code, self.retry_after = status, detail, code, retry_after

    def again(self) -> GatewayError:
        """One for each who is told: each raising adds its frames to the one that is raised."""
        return GatewayError(self.status, self.detail, code=self.code, retry_after=self.retry_after)


def bad_field(name: str, sentence: str) -> GatewayError:
    """A field of the request that cannot be taken as it is."""
    return GatewayError(400, f"{name}: {sentence}", code="invalid_value")


def unknown_model(uid: str, known: list[str]) -> GatewayError:
    there = f"; there are {', '.join(sorted(known))}" if known else "; none is launched"
    return GatewayError(404, f"Model not found in the model list, uid: {uid}{there}", code="model_not_found")

"""`torg up --blobs`: a home whose blobs are in a bucket."""

from dataclasses import replace
from pathlib import Path

from cli.errors import CliError, Exit, refused, usage
from market.homes import Home, write_json
from storage.blobs import BlobError, BlobStore
from storage.bucket_blobs import PlaceError, claimed, new_place, read_place
from storage.object_stores import S3Access


def settle_in_bucket(folder: Path, url: str, endpoint: str | None) -> None:
    """Let the market of this home keep its blobs in the bucket, from its first blob on; the same again is no change.

    Keys are those of the environment or the machine's role, or of `blobs.json`, where somebody wrote them.
    """
    home = Home(folder)
    try:
        known = read_place(folder)
        place = known or new_place(url, S3Access(endpoint=endpoint))
    except PlaceError as error:
        raise CliError("place_damaged", str(error), "--blobs", None, Exit.FAILED) from error
    except ValueError as error:
        raise usage(str(error), field="--blobs", remedy="s3://BUCKET or s3://BUCKET/PREFIX") from error
    if place.url != url.rstrip("/"):
        raise refused("blobs_elsewhere", f"the blobs of this home are in {place.url}", field="--blobs", remedy="leave --blobs out")
    if known is None and home.blobs.is_dir() and next(BlobStore(home.blobs).digests(), None):
        told = f"{home.blobs} holds blobs already"
        raise refused("blobs_elsewhere", told, field="--blobs", remedy="use --blobs at the first `torg up` of a home")
    if endpoint is not None:
        place = replace(place, access=replace(place.access, endpoint=endpoint))
    try:
        claimed(place)
    except BlobError as error:
        raise refused("blobs_unusable", str(error), field="--blobs", remedy="see the bucket, its keys and --blobs-endpoint") from error
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(home.blobs_file, place.to_json(), mode=0o600)

"""Taxa: the known ones with the raw labels that mean them, and finding or making one by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.errors import NotFound, translated


@dataclass(frozen=True, slots=True)
class TaxonRow:
    """`labels` are the raw labels known to mean this taxon."""

    id: int
    scientific_name: str
    common_name: str | None
    aphia_id: int | None
    labels: tuple[str, ...]


# Scientific name, common name, AphiaID where certain, raw labels. A label that names a genus only
# is kept as such ("sp."): which species a photo shows is not ours to guess.
_KNOWN: tuple[tuple[str, str, int | None, tuple[str, ...]], ...] = (
    ("Balaenoptera acutorostrata", "minke whale", 137087, ("minke_whale",)),
    ("Balaenoptera borealis", "sei whale", 137088, ("sei_whale",)),
    ("Balaenoptera edeni", "Bryde's whale", None, ("brydes_whale",)),
    ("Balaenoptera musculus", "blue whale", 137090, ("blue_whale",)),
    ("Balaenoptera physalus", "fin whale", 137091, ("fin_whale",)),
    ("Cephalorhynchus commersonii", "Commerson's dolphin", None, ("commersons_dolphin",)),
    ("Delphinapterus leucas", "beluga", 137115, ("beluga",)),
    ("Delphinus delphis", "common dolphin", 137094, ("common_dolphin",)),
    ("Eschrichtius robustus", "gray whale", None, ("gray_whale",)),
    ("Eubalaena australis", "southern right whale", None, ("southern_right_whale",)),
    ("Feresa attenuata", "pygmy killer whale", 137095, ("pygmy_killer_whale",)),
    (
        "Globicephala macrorhynchus",
        "short-finned pilot whale",
        137096,
        ("short_finned_pilot_whale",),
    ),
    ("Globicephala melas", "long-finned pilot whale", 137097, ("long_finned_pilot_whale",)),
    ("Globicephala sp.", "pilot whale", None, ("pilot_whale", "globis")),
    ("Lagenodelphis hosei", "Fraser's dolphin", None, ("frasiers_dolphin",)),
    ("Lagenorhynchus obscurus", "dusky dolphin", None, ("dusky_dolphin",)),
    ("Lagenorhynchus sp.", "white-sided dolphin", None, ("white_sided_dolphin",)),
    ("Megaptera novaeangliae", "humpback whale", 137092, ("humpback_whale",)),
    ("Orcinus orca", "killer whale", 137102, ("killer_whale", "kiler_whale")),
    ("Peponocephala electra", "melon-headed whale", 137103, ("melon_headed_whale",)),
    ("Pseudorca crassidens", "false killer whale", 137104, ("false_killer_whale",)),
    ("Stenella attenuata", "pantropical spotted dolphin", 137105, ("pantropic_spotted_dolphin",)),
    ("Stenella longirostris", "spinner dolphin", 137109, ("spinner_dolphin",)),
    ("Stenella sp.", "spotted dolphin", None, ("spotted_dolphin",)),
    ("Steno bredanensis", "rough-toothed dolphin", 137110, ("rough_toothed_dolphin",)),
    ("Tragelaphus angasii", "nyala", None, ("nyala",)),
    (
        "Tursiops truncatus",
        "common bottlenose dolphin",
        137111,
        ("bottlenose_dolphin", "bottlenose_dolpin"),
    ),
    ("Ziphius cavirostris", "Cuvier's beaked whale", 137127, ("cuviers_beaked_whale",)),
)

_NO_TAXON = frozenset({"", "unknown", "na", "none", "____"})

TAXON_BY_LABEL = """
    (SELECT id FROM (
        SELECT id, 1 AS preference FROM taxon WHERE lower(scientific_name) = {label}
        UNION ALL
        SELECT id, 2 FROM taxon WHERE lower(common_name) = {label}
        UNION ALL
        SELECT taxon_id, 3 FROM taxon_synonym WHERE lower(replace(label, '_', ' ')) = {label}
    ) known ORDER BY preference, id LIMIT 1)
"""
"""SQL of the taxon that a normal label (lower case, blanks for `_`) means, or NULL; put the
expression of the label in with `.format(label=…)`."""


def seed_taxa(session: Session) -> int:
    """Add the known taxa and labels that are not there yet; how many rows were added."""
    added = 0
    for scientific, common, aphia_id, labels in _KNOWN:
        result = session.execute(
            text(
                "INSERT INTO taxon (scientific_name, common_name, aphia_id)"
                " VALUES (:scientific, :common, :aphia) ON CONFLICT DO NOTHING RETURNING id"
            ),
            {"scientific": scientific, "common": common, "aphia": aphia_id},
        )
        added += len(result.all())
        result = session.execute(
            text(
                "INSERT INTO taxon_synonym (taxon_id, label)"
                " SELECT t.id, l FROM taxon t, unnest(cast(:labels AS text[])) l"
                " WHERE lower(t.scientific_name) = lower(:scientific)"
                " ON CONFLICT DO NOTHING RETURNING id"
            ),
            {"scientific": scientific, "labels": list(labels)},
        )
        added += len(result.all())
    return added


@translated()
def find_taxon(session: Session, label: str) -> int | None:
    """The taxon that a scientific name, common name or synonym means, whatever the case."""
    found: int | None = session.scalar(
        text(f"SELECT {TAXON_BY_LABEL.format(label=':label')}"), {"label": normal_label(label)}
    )
    return found


def find_taxa(session: Session, labels: Sequence[str]) -> list[int]:
    """The taxa that any of the labels mean, ascending; a label that nobody knows means none."""
    found = session.scalars(
        text(
            f"SELECT DISTINCT {TAXON_BY_LABEL.format(label='wanted.label')} AS id"
            " FROM unnest(cast(:labels AS text[])) wanted(label) ORDER BY id"
        ),
        {"labels": [normal_label(label) for label in labels]},
    )
    return [taxon for taxon in found if taxon is not None]


@translated()
def ensure_taxon(session: Session, label: str) -> int | None:
    """The taxon that `label` means, made when nobody knows it; None for blank and `unknown`."""
    if normal_label(label) in _NO_TAXON:
        return None
    found = find_taxon(session, label)
    if found is not None:
        return found
    name = " ".join(label.replace("_", " ").split())
    session.execute(
        text("INSERT INTO taxon (scientific_name) VALUES (:name) ON CONFLICT DO NOTHING"),
        {"name": name},
    )
    return find_taxon(session, label)


def get_taxon(session: Session, taxon_id: int) -> TaxonRow:
    """Raises:
    NotFound: no such taxon.
    """
    for taxon in list_taxa(session):
        if taxon.id == taxon_id:
            return taxon
    raise NotFound("taxon_unknown", f"There is no taxon {taxon_id}.", taxon_id=taxon_id)


def list_taxa(session: Session) -> list[TaxonRow]:
    """Every taxon, by scientific name."""
    rows = session.execute(
        text(
            "SELECT t.id, t.scientific_name, t.common_name, t.aphia_id,"
            " array_remove(array_agg(s.label ORDER BY s.label), NULL)"
            " FROM taxon t LEFT JOIN taxon_synonym s ON s.taxon_id = t.id"
            " GROUP BY t.id ORDER BY t.scientific_name"
        )
    )
    return [
        TaxonRow(number, name, common, aphia, tuple(labels))
        for number, name, common, aphia, labels in rows
    ]


def normal_label(label: str) -> str:
    """The form in which labels are compared: lower case, single blanks, blanks for `_`."""
    return " ".join(label.replace("_", " ").split()).lower()

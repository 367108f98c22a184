"""Owns the words for what a catalogue holds: common names of species, and viewpoints."""

from __future__ import annotations

from collections.abc import Mapping

from service.web.words import Lazy, lazy, ngettext

COMMON_NAMES: Mapping[str, Lazy] = {
    "balaenoptera acutorostrata": lazy("minke whale"),
    "balaenoptera borealis": lazy("sei whale"),
    "balaenoptera edeni": lazy("Bryde's whale"),
    "balaenoptera musculus": lazy("blue whale"),
    "balaenoptera physalus": lazy("fin whale"),
    "cephalorhynchus commersonii": lazy("Commerson's dolphin"),
    "delphinapterus leucas": lazy("beluga"),
    "delphinus delphis": lazy("common dolphin"),
    "eschrichtius robustus": lazy("gray whale"),
    "eubalaena australis": lazy("southern right whale"),
    "feresa attenuata": lazy("pygmy killer whale"),
    "globicephala macrorhynchus": lazy("short-finned pilot whale"),
    "globicephala melas": lazy("long-finned pilot whale"),
    "globicephala sp.": lazy("pilot whale"),
    "lagenodelphis hosei": lazy("Fraser's dolphin"),
    "lagenorhynchus obscurus": lazy("dusky dolphin"),
    "lagenorhynchus sp.": lazy("white-sided dolphin"),
    "megaptera novaeangliae": lazy("humpback whale"),
    "orcinus orca": lazy("killer whale"),
    "peponocephala electra": lazy("melon-headed whale"),
    "pseudorca crassidens": lazy("false killer whale"),
    "stenella attenuata": lazy("pantropical spotted dolphin"),
    "stenella longirostris": lazy("spinner dolphin"),
    "stenella sp.": lazy("spotted dolphin"),
    "steno bredanensis": lazy("rough-toothed dolphin"),
    "tragelaphus angasii": lazy("nyala"),
    "tursiops truncatus": lazy("common bottlenose dolphin"),
    "ziphius cavirostris": lazy("Cuvier's beaked whale"),
}
"""The taxa that every catalogue begins with; a test keeps this table and theirs alike."""

VIEWPOINTS = {
    "left": lazy("left"),
    "right": lazy("right"),
    "front": lazy("front"),
    "back": lazy("back"),
    "top": lazy("top"),
    "underside": lazy("underside"),
}

BODY_PARTS = {
    "fluke": lazy("fluke"),
    "flank": lazy("flank"),
    "dorsal fin": lazy("dorsal fin"),
    "head": lazy("head"),
    "whole body": lazy("whole body"),
}

SIDES = VIEWPOINTS | BODY_PARTS
"""What stands in an import's column of viewpoints may well be a body part."""


def latin_name(taxon: str | None) -> str | None:
    """A taxon as people write it."""
    return taxon.replace("_", " ") if taxon else None


def common_name(taxon: str | None, common: str | None = None) -> str | None:
    """What the reader's language calls a taxon, beginning with a capital; `common` is what the
    catalogue calls it, for those that no table knows."""
    known = COMMON_NAMES.get((latin_name(taxon) or "").lower())
    name = str(known) if known else common
    return name[:1].upper() + name[1:] if name else None


def viewpoint_word(viewpoint: str | None) -> str | None:
    """A viewpoint in the reader's language; one that is in no table stays as it was typed."""
    return str(SIDES.get(viewpoint, viewpoint)) if viewpoint else None


def body_part_word(body_part: str | None) -> str | None:
    """A body part in the reader's language; one that is in no table stays as it was typed."""
    return str(BODY_PARTS.get(body_part, body_part)) if body_part else None


def photos(count: int) -> str:
    """`1 photo`, `1,204 photos`."""
    return ngettext("%(num)d photo", "%(num)d photos", count)


def individuals(count: int) -> str:
    """`1 individual`, `1,204 individuals`."""
    return ngettext("%(num)d individual", "%(num)d individuals", count)

"""Every table, constraint and naming convention, by subject. PostgreSQL is the only truth."""

from __future__ import annotations

from db.tables.base import MAX_DIM as MAX_DIM
from db.tables.base import Base as Base
from db.tables.base import Json as Json
from db.tables.catalogue import Annotation as Annotation
from db.tables.catalogue import Catalogue as Catalogue
from db.tables.catalogue import Encounter as Encounter
from db.tables.catalogue import Individual as Individual
from db.tables.catalogue import IndividualName as IndividualName
from db.tables.catalogue import MediaAsset as MediaAsset
from db.tables.catalogue import Taxon as Taxon
from db.tables.catalogue import TaxonSynonym as TaxonSynonym
from db.tables.catalogue import ViewpointRule as ViewpointRule
from db.tables.identity import Calibration as Calibration
from db.tables.identity import Change as Change
from db.tables.identity import ChangeRow as ChangeRow
from db.tables.identity import NameReservation as NameReservation
from db.tables.jobs import Job as Job
from db.tables.jobs import JobChunk as JobChunk
from db.tables.jobs import JobFailure as JobFailure
from db.tables.jobs import ReindexRun as ReindexRun
from db.tables.people import Account as Account
from db.tables.people import ApiKey as ApiKey
from db.tables.people import IdempotencyKey as IdempotencyKey
from db.tables.people import SavedView as SavedView
from db.tables.people import SignIn as SignIn
from db.tables.records import Audit as Audit
from db.tables.records import ImportRun as ImportRun
from db.tables.records import ImportSkip as ImportSkip
from db.tables.records import Match as Match
from db.tables.records import Query as Query
from db.tables.records import QueryPhoto as QueryPhoto
from db.tables.records import Review as Review
from db.tables.spaces import AnnotationChange as AnnotationChange
from db.tables.spaces import ChangeFloor as ChangeFloor
from db.tables.spaces import Embedding as Embedding
from db.tables.spaces import EmbeddingModel as EmbeddingModel
from db.tables.spaces import Head as Head
from db.tables.spaces import HeadRows as HeadRows
from db.tables.spaces import HeadSlot as HeadSlot
from db.tables.spaces import IndexSnapshot as IndexSnapshot
from db.tables.spaces import ModelSlot as ModelSlot

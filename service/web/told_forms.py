"""The forms of sentences that the lower layers say and pages show; a test finds each one there."""

from __future__ import annotations

from service.web.words import lazy

FORMS = (
    # Reasons of a gate and of a default answer.
    lazy("the photo is unlike everything that this small gate was trained on"),
    lazy("The gate rejected the photo; no name is suggested."),
    lazy("No head is loaded: only the gate and retrieval can speak."),
    lazy("The gate abstained, so no name is given; the matches are for review."),
    lazy(
        "The head's best slot (%(slot)s) is of an individual with no name in its list; the "
        "matches may know it."
    ),
    lazy("The best probability is %(best)s, below %(needed)s."),
    lazy("The head would name %(name)s, and somebody said that this is not %(_same)s."),
    lazy("Nothing was there to compare with."),
    # Notices.
    lazy("%(count)s of the photos could not be read and %(_were)s left out; see `photos`."),
    lazy(
        "The head has no slot for %(name)s, the nearest match, so the default answer cannot "
        "name it: go by the matches. `resight head fit` makes a head that can."
    ),
    lazy(
        "The catalogue is searched in the space of %(active)s %(active_version)s, but the "
        "loaded bundle is %(loaded)s %(loaded_version)s, and two spaces are never compared: "
        "no matches are given. Install the bundle %(bundle)s here, or move the catalogue: "
        "`resight reindex start %(model)s`."
    ),
    lazy("No embedding model is loaded, so nothing can be searched."),
    lazy("No embedding model is loaded; see `resight models list`."),
    lazy("No embedding model is installed; see `resight models list`."),
    lazy("The bundle %(bundle)s cannot be used: %(reason)s"),
    lazy(
        "The catalogue is searched in the space of %(name)s %(version)s by now, which cannot "
        "be taken up here: %(why)s. Until then answers come from %(present)s."
    ),
    lazy(
        "The space of %(name)s %(version)s is in use by now and is being loaded; until then "
        "answers come from %(present)s."
    ),
    lazy("No gate judges photos: %(reason)s"),
    lazy(
        "RESIGHT_MODEL names %(wanted)s, but the catalogue is searched with %(name)s "
        "%(version)s; `resight reindex start %(model)s` moves it."
    ),
    lazy(
        "%(count)s stored photos have no vector yet and cannot be found; `resight worker` or "
        "`resight import` embeds them."
    ),
    lazy("The real gate (%(bundle)s) is %(missing)s: `resight models pull %(name)s`."),
    lazy("The database does not answer."),
    lazy("The database does not answer (%(reason)s); see /ready or run `resight doctor`."),
    lazy("The photos cannot be found yet. %(why)s"),
    # Photos that are refused.
    lazy("the file is empty (0 bytes)"),
    lazy("the file has %(size)s bytes, at most %(most)s are accepted"),
    lazy("the file holds more than one picture: send one still photo"),
    lazy("the photo has %(width)s × %(height)s = %(pixels)s pixels, at most %(most)s are decoded"),
    lazy("the %(kind)s file is damaged: %(reason)s"),
    lazy("the %(kind)s file ends early after %(size)s bytes"),
    lazy("this is no photo that can be read: send %(formats)s"),
    lazy("The photo has more than %(most)s bytes."),
    lazy("The request carries %(count)s files, at most %(most)s are answered together; split it."),
    lazy("The body is larger than %(most)s bytes."),
    lazy(
        "The file of photo %(sha256)s is gone from %(place)s. Restore it from a backup, or "
        "import the photo again."
    ),
    lazy(
        "Photo %(sha256)s no longer decodes (%(reason)s). Run `resight doctor` and restore "
        "its file from a backup."
    ),
    lazy("The disk of the media store is full; free space and try again."),
    # What there is not.
    lazy("No query has the id %(id)s."),
    lazy("There is no query %(id)s."),
    lazy("No individual has the id %(id)s."),
    lazy("No encounter has the id %(id)s."),
    lazy("No annotation has the id %(id)s."),
    lazy("No photo has the id %(id)s."),
    lazy("No change has the id %(id)s."),
    lazy("No job has the id %(id)s; `resight jobs list` names those there are."),
    lazy("No re-index run has the id %(id)s; `resight reindex status` lists those there are."),
    lazy("No account has the id %(id)s."),
    lazy("There is no taxon %(id)s."),
    lazy("There is no queue %(name)s; there are %(queues)s."),
    lazy("There is no such sample; the demo makes them."),
    lazy("This query has %(count)s candidates."),
    lazy("No photo of this query is stored."),
    lazy("No rule of viewpoints has the id %(id)s."),
    lazy("No taxon is called %(name)s; give a scientific or common name that the catalogue has."),
    lazy("Individual %(id)s is no more: adding it was undone. Its history says by whom."),
    lazy("Individual %(id)s was merged into %(kept)s; name that one."),
    # Names and values that cannot be.
    lazy("A name cannot be blank."),
    lazy("A name cannot be blank, got %(name)s."),
    lazy(
        "An individual named %(name)s is in this catalogue already (upper and lower case are "
        "the same); add the photos to it, or choose another name."
    ),
    lazy(
        "An individual named %(name)s is in this catalogue already (upper and lower case are "
        "the same); use that one, or choose another name."
    ),
    lazy(
        "Another individual of this catalogue has this name (upper and lower case are the "
        "same); use that individual or choose another name."
    ),
    lazy("%(name)s was just added by another; try again."),
    lazy("%(by)s is about to give the name %(name)s; choose another one."),
    lazy("Somebody else is about to give this name; choose another one."),
    lazy("An encounter cannot end before it starts."),
    lazy("A latitude lies between -90 and 90 degrees."),
    lazy("A longitude lies between -180 and 180 degrees."),
    lazy("A position is a latitude and a longitude; give both, or neither."),
    lazy("A photo with the same bytes is stored already; use that one."),
    lazy("This region of this photo is annotated already; change that annotation instead."),
    lazy("A box starts inside the photo and has a positive width and height, in pixels."),
    lazy(
        "The box x=%(x)s, y=%(y)s, width=%(width)s, height=%(height)s does not lie inside "
        "the photo of %(columns)s × %(rows)s pixels; give it in pixels of the photo turned "
        "upright."
    ),
    lazy("The request does not fit; see `errors`."),
    lazy("Field `%(name)s`: %(detail)s."),
    # Changes that cannot be made or undone.
    lazy(
        "Change %(id)s cannot be undone before change %(later)s (%(action)s, by %(name)s), "
        "which came after it."
    ),
    lazy("Change %(id)s was undone already, by change %(undo)s; undo that one to have it again."),
    lazy("Change %(id)s cannot be undone: %(why)s"),
    lazy(
        "what it changed was changed again since, outside the journal (an import, or photos "
        "that were added)."
    ),
    lazy("Change %(id)s belongs to a review by %(name)s; undo the review, or decide it again."),
    lazy("This change was undone already; reload to see the present state."),
    lazy("This decision was undone already; reload to see the present state."),
    lazy(
        "%(what)s was changed by another since you read it; reload it, and make your change "
        "to what is there now."
    ),
    lazy("Name at least one annotation."),
    lazy("One change writes up to %(most)s annotations, not %(count)s; do it in parts."),
    lazy("Annotation %(id)s does not show %(name)s (any more); reload and choose again."),
    lazy("Those are all photos of %(name)s; leave at least one, or rename it."),
    lazy("%(name)s has no name with the id %(id)s."),
    lazy(
        "%(alias)s is the name that %(name)s is shown under; rename it first, and then "
        "remove this one."
    ),
    lazy("An individual cannot be merged with itself."),
    lazy(
        "%(who)s said that %(kept)s and %(other)s are different; merge them with "
        "`confirm_rejected` if that was a mistake."
    ),
    lazy("%(name)s cannot be split into itself."),
    lazy("This region was just annotated or removed by another; try again."),
    lazy(
        "This region of the photo is annotated as individual %(shown)s, not %(wanted)s; "
        "correct that annotation, or give a box for the other animal."
    ),
    lazy(
        "The encounter belongs to the catalogue %(catalogue)s, annotation %(id)s to "
        "%(other)s; choose an encounter of that one."
    ),
    # Jobs and re-index runs.
    lazy("%(name)s paused this job; let that person or an admin resume it."),
    lazy("The job is %(state)s and cannot be %(wanted)s; start a new one, or retry what failed."),
    lazy(
        "The job %(id)s does this already; watch it with `resight jobs watch %(same)s`, or "
        "cancel it first."
    ),
    lazy("Another job does this already; watch that one, or cancel it first."),
    lazy("The job is %(state)s; what failed can be retried when it has ended."),
    lazy("No item of this job failed; there is nothing to retry."),
    lazy("The job is being cancelled and cannot be %(wanted)s; wait until it is cancelled."),
    lazy(
        "Chunk %(number)s was begun %(times)s times, and each time its worker died. Look at "
        "the log of `resight worker`, then retry the job."
    ),
    lazy("This slot is being re-indexed already; finish or abandon that run first."),
    lazy("%(slot)s is being moved to %(name)s %(version)s already. %(step)s first."),
    lazy(
        "%(slot)s searches the space of %(name)s %(version)s already; there is nothing to re-index."
    ),
    lazy("The run is %(state)s, not ready; %(step)s."),
    lazy("This run is %(state)s: it is not what %(slot)s searches with now."),
    lazy(
        "%(missing)s annotations have no vector in %(name)s %(version)s yet; a running "
        "`resight worker` that has the bundle embeds them, then try again."
    ),
    lazy("The new space is worse here: %(why)s."),
    lazy(
        "%(slot)s searches %(present)s by now, and the report compares with another space; "
        "start a new run."
    ),
    lazy("The run has no report; start a new run."),
    lazy(
        "The vectors of %(name)s %(version)s were dropped; `resight reindex start %(model)s` "
        "makes them anew."
    ),
    lazy(
        "Photos are being added in one long transaction, so that the switch could not begin; "
        "nothing has changed. Try again when it is over."
    ),
    lazy("searched by %(slots)s"),
    lazy("the run %(run)s moves %(slot)s here (%(state)s)"),
    lazy("kept for the way back of %(slot)s, until it is retired"),
    lazy("not needed: `resight models retire %(name)s`"),
    # Who asks.
    lazy("Too many wrong keys from this address; wait before trying again."),
    lazy("Too many attempts; wait a little before trying again."),
    lazy("The API key is unknown, expired or revoked."),
    lazy(
        "This change did not come from a page of this sign-in; reload the page and do it "
        "again. (Programs send `Authorization: Bearer KEY`, or the header %(header)s.)"
    ),
    lazy("This needs the role %(needed)s; %(name)s has the role %(role)s."),
    lazy("This is not right; check the login and the password."),
    lazy("The present password is not right."),
    lazy("This is not a valid key of a person."),
    lazy("Give a name; it stands beside decisions."),
    lazy("A name has at most %(most)s characters."),
    lazy("%(name)s is kept for what no person did."),
    lazy("A login is made of letters a to z, digits and . _ @ + - (at most 64), not %(login)s."),
    lazy("A password has at least %(least)s characters; four words in a row make a good one."),
    lazy("A password has at most %(most)s characters."),
    lazy("This password is guessed at once; four words in a row make a good one."),
    lazy(
        "The first account has to be an admin's: from then on everybody signs in, and nobody "
        "else could manage people."
    ),
    lazy("People have accounts here; sign in and change your name there."),
    lazy("Somebody signs in with this name already; choose another one."),
    lazy(
        "Somebody else has this name, and it stands beside decisions; add to it what tells "
        "the two of you apart."
    ),
    lazy("A login cannot be blank."),
    lazy("A program's key has this name; choose another one."),
    lazy(
        "This is the only admin; make somebody else an admin first, or nobody could manage "
        "people any more."
    ),
    lazy("You have no key with this id."),
    lazy("%(name)s is disabled; a key would not work."),
    lazy("Give your name first; this belongs to a person."),
    lazy("A key needs a name that says who uses it."),
    lazy("A key with this name exists; revoke it or choose another name."),
    lazy("A page of %(site)s may not post here."),
    lazy("More than %(count)s questions a minute; wait %(seconds)s seconds."),
    # The service.
    lazy("Something failed inside; the log has the request id."),
    lazy("The vectors are still being loaded; try again in a moment."),
    lazy("Every connection to the database is in use; try again in a moment."),
    lazy(
        "No space can be searched: no embedding model is loaded that fits the catalogue. See "
        "/ready, or run `resight doctor`."
    ),
    lazy("%(count)s listeners follow jobs here already; ask again later."),
    lazy("No gate is installed, and this service is set to refuse without one: %(reason)s"),
    lazy(
        "A request with the Idempotency-Key %(key)s was just answered; send it again to get "
        "that answer."
    ),
    # What a best score means.
    lazy(
        "The best score is %(best)s; of %(count)s true matches of this catalogue, %(share)s "
        "scored as low as that."
    ),
    lazy(
        "The best score is %(best)s; only %(count)s true matches are known to compare it "
        "with, %(needed)s are needed."
    ),
    lazy("It is where true matches are."),
    lazy("Look closely: it is at the lower end of true matches."),
    lazy("Probably an individual that is not in the catalogue."),
    # Words that stand in such sentences.
    lazy("none"),
    lazy("not installed"),
    lazy("queued"),
    lazy("running"),
    lazy("paused"),
    lazy("cancelling"),
    lazy("cancelled"),
    lazy("failed"),
    lazy("done"),
    lazy("ready"),
    lazy("active"),
    lazy("embedding"),
    lazy("building"),
    lazy("verifying"),
    lazy("requested"),
    lazy("retired"),
    lazy("viewer"),
    lazy("reviewer"),
    lazy("curator"),
    lazy("admin"),
    # Why a new space is worse.
    lazy("recall of the snapshot is %(recall)s, below %(least)s"),
    lazy("top-1 falls by %(drop)s (of %(count)s questions), by more than %(most)s"),
    lazy("%(lost)s of %(all)s annotations would lose their vector, more than %(most)s"),
    # The desk.
    lazy("No decision has the id %(id)s."),
    lazy("You have not reserved the name %(name)s."),
    lazy("A saved view needs a name."),
    lazy("You have no saved view %(id)s."),
    lazy("Name each annotation once."),
    lazy("One question has at most %(most)s photos, not %(count)s; ask about them in parts."),
    lazy(
        "Everybody on the photos of this encounter is named already, or there are none; name "
        "the annotations that are to be asked about."
    ),
    lazy("Name annotations or an encounter to ask about."),
    lazy("The query %(id)s has no photos that are stored."),
    lazy(
        "The query %(id)s was answered and is not to be decided; send it to the desk first "
        "(`POST /v1/queries` with its `query_id`)."
    ),
    lazy(
        "Somebody said that this is another animal; undo that, or say `same` with "
        "`confirm_rejected`."
    ),
    lazy("This query was decided%(who)s while you looked at it; see what it is now."),
    lazy("%(name)s has decided this query (%(verdict)s); undo that first."),
    lazy("%(name)s has taken this decision back already."),
    lazy("The regions that were asked about were deleted; ask again."),
    lazy("The verdicts `same` and `different` name the individual they speak of."),
    lazy("Say why the photo cannot be used: give a `reason`."),
    lazy("An undo is not taken back; decide the query again instead."),
    lazy("The opinions have led to a decision; undo that one first."),
    lazy("You have given your opinion already; undo it to give another one."),
    lazy("Annotation %(id)s is not one of this query's; name its own, or none for all of them."),
    lazy(
        "Annotation %(id)s shows %(name)s already; a curator can reassign it, or decide on "
        "the other photos alone."
    ),
    lazy("same"),
    lazy("different"),
    lazy("unsure"),
    lazy("new"),
    lazy("not_usable"),
    # The catalogue.
    lazy("Between 1 and %(most)s individuals are edited together, not %(count)s."),
    lazy("%(link)s is not the address of a page; it starts with http:// or https://."),
    lazy("They were merged into %(name)s; undo that, or split it."),
    lazy("Tick two individuals to merge them, or any to edit them."),
    lazy("No photo of this encounter is for matching."),
    lazy("These are one individual already."),
    lazy("None of these photos is in the catalogue."),
    lazy("Choose an individual of the catalogue."),
    lazy(" by %(name)s (%(verdict)s)"),
)

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits what is kept. An end is kept while its socket lives, also if it stays with TCP, so that it can be listed.
 * There are places for MAX_ENDS, and those that stay with TCP for good take no more than half of them.
 */
#define MAX_ENDS (2 * MAX_MEMBERS)

enum places {
	NO_PLACE,
	/* There is one, but a walk should find out how many there are really. */
	COUNT_PLACES,
	PLACE,
};

/* Whether there is a place for one more end. is_left: it will never join. */
static inline enum places find_place(u32 is_left)
{
	int zero = 0;
	struct settings *settings = sa_settings.lookup(&zero);
	struct kept *kept = sa_kept.lookup(&zero);
	s64 ends, left;

	if (!settings || !kept)
		return NO_PLACE;
	/* Since the last walk. Below zero if more were forgotten. */
	ends = kept->ends - settings->counted;
	left = kept->left - settings->counted_left;
	if ((s64)settings->last_found + ends >= MAX_ENDS)
		return NO_PLACE;
	if (is_left && (s64)settings->last_found_left + left >= MAX_MEMBERS)
		return NO_PLACE;
	return ends > MAX_ENDS / 4 || left > MAX_MEMBERS / 4 ? COUNT_PLACES : PLACE;
}

/* ends, left: how many more are kept, below zero for fewer. */
static inline void count_kept(s64 ends, s64 left)
{
	int zero = 0;
	struct kept *kept = sa_kept.lookup(&zero);

	if (!kept)
		return;
	if (ends)
		__sync_fetch_and_add(&kept->ends, ends);
	if (left)
		__sync_fetch_and_add(&kept->left, left);
}

/* Counts what there was no place for. The next sweep tells the log. */
static inline void turn_away(u32 slot, u32 counter)
{
	int zero = 0;
	struct kept *kept = sa_kept.lookup(&zero);

	if (kept && counter == LISTENERS_TURNED_AWAY)
		__sync_fetch_and_add(&kept->listeners_turned_away, 1);
	else if (kept)
		__sync_fetch_and_add(&kept->ends_turned_away, 1);
	if (counter != NO_REASON)
		count(slot, counter, 1);
}

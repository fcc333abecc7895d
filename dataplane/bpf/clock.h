/* When a record was last used, and whether what it remembers of routes and tables still counts, in one word.
 *
 * What a connection remembers of its way (tables.h, union way) and of its server's port counts as long as its
 * stamp is the present one: until the next eighth of a second, or until the agent changes the generation, for
 * it knows at once of other routes and interfaces, and of ports that a server loses. So no agent is needed
 * for a way to be right 134 ms after it changed. */
#ifndef WHARFINGER_CLOCK_H
#define WHARFINGER_CLOCK_H

#include "work.h"

#define STAMP_SHIFT 27	   /* 134 ms */
#define STAMP_TIME_BITS 24 /* 26 days until it comes again; above it the generation */
#define STAMP_TIME_MASK ((1u << STAMP_TIME_BITS) - 1)

INLINE u32 stamp_of(u64 time_ns, u64 generation)
{
	return (u32)generation << STAMP_TIME_BITS | ((u32)(time_ns >> STAMP_SHIFT) & STAMP_TIME_MASK);
}

INLINE u32 stamp_now(struct work *w) { return stamp_of(now_coarse(w), setting(w, SETTING_GENERATION)); }

#define STAMP_AHEAD (1u << 16) /* 2.4 hours */

/* How long ago a record was last used, in ns, to an eighth of a second: 0 also for one that was used since
 * `now_ns`, for packets pass while the agent looks at the records. */
INLINE u64 stamp_age_ns(u32 stamp, u64 now_ns)
{
	u32 age = ((u32)(now_ns >> STAMP_SHIFT) - stamp) & STAMP_TIME_MASK;

	return age > STAMP_TIME_MASK - STAMP_AHEAD ? 0 : (u64)age << STAMP_SHIFT;
}

#endif

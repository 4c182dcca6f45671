/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Adds to the counters of a target. */

/* Atomic although the counters are per CPU: another program may preempt this one and count the same. */
static inline void count(u32 slot, u32 counter, u64 amount)
{
	struct counters *counters = sa_counters.lookup(&slot);
	u64 index = counter;

	/* Keeps the index in one register for check and access. Otherwise the verifier does not connect the
	 * two. */
	asm volatile("" : "+r"(index));
	if (counters && index < COUNTERS_COUNT)
		__sync_fetch_and_add(&counters->value[index], amount);
}

/*
 * Counts the bytes that TCP carried, by its sequence numbers. The verdict's messages would not do: TCP may take a
 * part of one, and while TCP has no room the kernel repeats the verdict without asking (tcp_bpf_send_verdict()).
 */
static inline void count_tcp_bytes(struct end *end, u32 write_sequence)
{
	u32 bytes = write_sequence - end->counted_sequence;

	if (!bytes || end->fin_sent || !end->in_map)
		return;
	end->counted_sequence = write_sequence;
	end->tcp_bytes += bytes;
	count(end->slot, TCP_BYTES, bytes);
}

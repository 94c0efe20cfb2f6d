// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages between kernels as the reference series exchanges them: one ring for
 * every sender and receiver in an area that all kernels map, see
 * kernels/reference/0010 and 0012. The layout is the series'.
 */
#include "payload.h"

#define SHARED_MAGIC	0x4c4e524b4c554dULL
#define SHARED_VERSION	1
#define NR_SLOTS	16
#define RING_MESSAGES	16

#define ECHO_SUBTYPE	0x80000000	/* as mkmsg: what has it is not answered */

enum { NONE, STARTED, ALIVE, STOPPED, CRASHED };

struct peer {
	u32 id, state, apic_id, halt;
};

struct message {
	u32 type, subtype, seq, len;
	u8 payload[MESSAGE_MAX];
};

struct ring {
	u32 head __attribute__((aligned(64)));
	u32 tail __attribute__((aligned(64)));
	struct message message[RING_MESSAGES];
};

struct shared {
	u64 magic;
	u32 version, nr_slots;
	struct peer peer[NR_SLOTS];
	/* by receiver, then by sender */
	struct ring ring[NR_SLOTS][NR_SLOTS] __attribute__((aligned(4096)));
};

_Static_assert(sizeof(struct ring) == 4096, "a ring is a page");

bool hold;		/* leave what comes in the rings until it is asked for */
bool echo = true;	/* answer every message with itself */

static struct shared *shared;
static u32 self;
static u32 tails[NR_SLOTS];

void messages_init(void)
{
	struct shared *area = (struct shared *)boot_info.shared;
	int slot;

	if (!area)
		return;
	if (!reach((u64)area, sizeof(*area)) || area->magic != SHARED_MAGIC ||
	    area->version != SHARED_VERSION || area->nr_slots != NR_SLOTS ||
	    boot_info.slot >= NR_SLOTS) {
		say("shared area is not as expected\n");
		return;
	}
	self = boot_info.slot;
	for (slot = 0; slot < NR_SLOTS; slot++)
		tails[slot] = READ_ONCE(area->ring[self][slot].tail);
	shared = area;
	__atomic_store_n(&area->peer[self].state, ALIVE, __ATOMIC_SEQ_CST);
}

static int find_slot(u32 kernel)
{
	int slot;

	for (slot = 0; slot < NR_SLOTS; slot++)
		if (READ_ONCE(shared->peer[slot].state) != NONE &&
		    READ_ONCE(shared->peer[slot].id) == kernel)
			return slot;
	return -1;
}

/* Returns what is wrong, or NULL. A slot that is not one's own forges the sender. */
const char *send(int as_slot, u32 kernel, u32 type, u32 subtype, const void *data, u32 size)
{
	struct message *message;
	struct ring *ring;
	struct peer *peer;
	u32 head;
	int slot;

	if (!shared)
		return "there is no area for messages";
	slot = find_slot(kernel);
	if (slot < 0)
		return "there is no such kernel";
	if (as_slot >= NR_SLOTS)
		return "there is no such slot";
	peer = &shared->peer[slot];
	ring = &shared->ring[slot][as_slot < 0 ? self : (u32)as_slot];
	head = READ_ONCE(ring->head);
	if (head - load_acquire(&ring->tail) >= RING_MESSAGES)
		return "the ring is full";

	message = &ring->message[head % RING_MESSAGES];
	message->type = type;
	message->subtype = subtype;
	message->seq = head;
	message->len = size;
	copy(message->payload, data, size);
	store_release(&ring->head, head + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (READ_ONCE(peer->state) == ALIVE)
		send_ipi(READ_ONCE(peer->apic_id), DOORBELL_VECTOR);
	return NULL;
}

static void take(u32 sender, const struct message *message)
{
	u32 size = message->len > MESSAGE_MAX ? MESSAGE_MAX : message->len;
	const char *wrong;

	say("message");
	field("from", sender);
	field("type", message->type);
	field("subtype", message->subtype);
	field("seq", message->seq);
	field("length", message->len);
	put(" data=");
	put_hex(message->payload, size);
	end_line();
	if (!echo || message->subtype & ECHO_SUBTYPE)
		return;
	wrong = send(-1, sender, message->type, message->subtype | ECHO_SUBTYPE,
		     message->payload, size);
	if (wrong) {
		say("no echo: ");
		put(wrong);
		end_line();
	}
}

/* Take out of the rings what others have put in; returns how many messages. */
u32 receive(void)
{
	struct message message;
	struct ring *ring;
	u32 slot, head, count = 0;

	for (slot = 0; shared && slot < NR_SLOTS; slot++) {
		ring = &shared->ring[self][slot];
		head = load_acquire(&ring->head);
		if (slot == self || head == tails[slot])
			continue;
		if (head - tails[slot] > RING_MESSAGES) {
			say("ring");
			field("from_slot", slot);
			field("tail", tails[slot]);
			field("head", head);
			put(" makes no sense\n");
			tails[slot] = head;
		}
		while (tails[slot] != head) {
			copy(&message, &ring->message[tails[slot] % RING_MESSAGES], sizeof(message));
			store_release(&ring->tail, ++tails[slot]);
			take(READ_ONCE(shared->peer[slot].id), &message);
			count++;
		}
		WRITE_ONCE(ring->tail, tails[slot]);
	}
	return count;
}

bool halt_asked(void)
{
	return shared && READ_ONCE(shared->peer[self].halt);
}

/* Stop for good, and tell the host. */
void park(bool crashed)
{
	say(crashed ? "crash\n" : "stop\n");
	if (shared) {
		WRITE_ONCE(shared->peer[self].state, crashed ? CRASHED : STOPPED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		send_ipi(READ_ONCE(shared->peer[0].apic_id), DOORBELL_VECTOR);
	}
	hang();
}

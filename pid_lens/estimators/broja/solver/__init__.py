"""Convex solvers for the union information I_Q, each with a primal-dual certificate.

In come the two marginals p(x1, y) and p(x2, y); out comes a `Solution`: a certified interval for
I_Q, the coupling behind its upper end and the dual potentials behind its lower end, nats.

    binary           two answers: closed form, by sorting (decision problems)
    interior_point   small tables: primal-dual interior point along the central path
                     (`central_path` steps, `newton` linear system)
    scaling          large tables: alternating Sinkhorn-like scaling
    quantise         samples: merges posteriors into `cells`, then one of the solvers above
    best_response    maximisation of the dual over one source's potentials, the other's given
    certificate      rounding to the marginals, shifting to dual feasibility
    envelope         gradient of I_Q in the masses, by the envelope theorem
"""

"""What a step of training does to its roles: flow matching, regression on a teacher's answers, distribution matching."""
